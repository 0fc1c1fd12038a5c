"""What the tests need of the world around them: Debian's archive and servers on loopback."""
