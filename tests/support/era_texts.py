"""The text of the files that ``tests.support.eras`` writes; some are templates for str.format."""

YEAR = "duration365d = time.Hour * 24 * 365"
YEAR14 = "duration365d           = time.Hour * 24 * 365"
CALL_CLIENT_GO = "\treturn certutil.NewSelfSignedCACert(config, key)"
CALL_LEAF = (
    "\nfunc NewCertAndKey(ca, config, key any) any {\n"
    "\treturn certutil.NewSignedCert(config, key, ca)\n}\n"
)
KUBEADM = "package main\n\nfunc main() {\n}\n"

CERT_GO = """\
package cert

import "time"

{year}
func NewSelfSignedCACert(cfg Config, key Signer) (*Certificate, error) {{
	now := time.Now()
	tmpl := Certificate{{
		NotBefore:             {birth},
		NotAfter:              now.Add(duration365d * 10).UTC(),
		IsCA:                  true,
	}}
	return sign(&tmpl, key)
}}
{leaf}
func GenerateSelfSignedCertKey(host string) (*Certificate, error) {{
	validFrom := time.Now().Add(-time.Hour)
	maxAge := time.Hour * 24 * 365
	tmpl := Certificate{{
		NotBefore: validFrom,
		NotAfter:  validFrom.Add(maxAge),
	}}
	return sign(&tmpl, nil)
}}
"""

LEAF_CLIENT_GO = """
func NewSignedCert(cfg Config, key Signer, caCert *Certificate) (*Certificate, error) {
	tmpl := Certificate{
		SerialNumber: serial,
		NotBefore:    caCert.NotBefore,
		NotAfter:     time.Now().Add(duration365d).UTC(),
	}
	return sign(&tmpl, key)
}
"""

PKI_GO = """\
package pkiutil

import (
	"time"

	certutil "k8s.io/client-go/util/cert"
	kubeadmconstants "k8s.io/kubernetes/cmd/kubeadm/app/constants"
)
{consts}
func NewCertificateAuthority(config, key any) any {{
{ca}
}}
{leaf}"""

LEAF_14 = """
func NewSignedCert(cfg Config, key Signer, caCert *Certificate) (*Certificate, error) {
	tmpl := Certificate{
		SerialNumber: serial,
		NotBefore:    caCert.NotBefore,
		NotAfter:     time.Now().Add(duration365d).UTC(),
	}
	return sign(&tmpl, key)
}
"""

LEAF = """
func NewSignedCert(cfg *CertConfig, key Signer, caCert *Certificate) (*Certificate, error) {{
	notBefore := caCert.NotBefore
	{add}
	tmpl := Certificate{{NotBefore: notBefore, NotAfter: notAfter}}
	return sign(&tmpl, key)
}}
"""

CA_OWN = """\
	return NewSelfSignedCACert(config, key)
}

func NewSelfSignedCACert(cfg *CertConfig, key Signer) (*Certificate, error) {
	notBefore := time.Now().UTC()
	notAfter := notBefore.Add(kubeadmconstants.CACertificateValidityPeriod)
	tmpl := Certificate{NotBefore: notBefore, NotAfter: notAfter, IsCA: true}
	return sign(&tmpl, key)"""

SCHEME_GO = """\
package scheme

func AddToScheme(scheme *Scheme) {
	must(scheme.SetVersionPriority(v1beta4.SchemeGroupVersion, v1beta3.SchemeGroupVersion))
}
"""

DEFAULTS_GO = """\
package v1beta4

import (
	"time"

	"k8s.io/kubernetes/cmd/kubeadm/app/constants"
)

func SetDefaults_ClusterConfiguration(obj *ClusterConfiguration) {
	if obj.CertificateValidityPeriod == nil {
		obj.CertificateValidityPeriod = &Duration{
			Duration: constants.CertificateValidityPeriod,
		}
	}
	if obj.CACertificateValidityPeriod == nil {
		obj.CACertificateValidityPeriod = &Duration{
			Duration: constants.CACertificateValidityPeriod,
		}
	}
}

func SetDefaults_Timeouts(obj *Timeouts) {
	if obj.KubernetesAPICall == nil {
		obj.KubernetesAPICall = &Duration{Duration: time.Minute}
	}
}
"""

TEST_DECOY = f"""\
package utils

import "time"

const {YEAR}

func NewSignedCert() any {{
	return Certificate{{
		NotAfter:     time.Now().Add(duration365d).UTC(),
	}}
}}
"""

VERSION_SH = """\
kube::version::get_version_vars() {
  if [[ '$Format:%%$' == "%" ]]; then
    KUBE_GIT_COMMIT='$Format:%H$'
    KUBE_GIT_TREE_STATE="archive"
    if [[ '$Format:%D$' =~ tag:\\ (v[^ ,]+) ]]; then
     KUBE_GIT_VERSION="${BASH_REMATCH[1]}"
    fi
  fi
}
"""

BASE_GO = """\
package version

var (
	gitVersion   = "v0.0.0-master+$Format:{commit}$"
	gitCommit    = "$Format:%H$"
	gitTreeState = ""
)
"""
