//! Which SSH host is believed: one with the pinned key; where none is pinned, one with a certificate of a host CA.
//!
//! Entry points: [`Trust::of`] and [`Trust::judge`]. Absent on purpose: trust at first sight.

use super::brief::SshAccess;
use crate::sync::ports::Fault;
use russh::Preferred;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::{Certificate, Fingerprint};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};
use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a host must show.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// This key, bare or in a certificate.
    Pinned(PublicKey),
    /// A certificate of one of these CAs for one of these names.
    Signed { cas: Vec<Fingerprint>, names: Vec<String> },
    /// Anything is looked at, nothing is believed.
    Nothing,
}

/// What a host showed, and why that is not enough.
pub(super) struct Shown {
    pub(super) key: PublicKey,
    pub(super) why_not: Option<String>,
}

impl Trust {
    /// What the cluster's settings say of a host. Permanent: nothing, or a line that is not a public key.
    pub(super) fn of(access: &SshAccess) -> Result<Self, Fault> {
        let peer = access.peer();
        let read = |line: &str| {
            PublicKey::from_openssh(line).map_err(|source| Fault::Permanent {
                what: format!(
                    "host {peer}: the pinned SSH host key or host CA is not a public key line; \
                     set it again with `evenkeel cluster set-machines`"
                ),
                source: Some(Box::new(source)),
            })
        };
        if let Some(line) = &access.host_key {
            return read(line).map(Self::Pinned);
        }
        if access.host_cas.is_empty() {
            return Err(Fault::permanent(format!(
                "host {peer} has no pinned SSH host key, so it cannot be told from another machine; pin it with \
                 `evenkeel cluster set-machines --scan`, `--known-hosts FILE` or `--host-key`, or name the CA that \
                 signs host keys with `--host-ca`"
            )));
        }
        let cas = access.host_cas.iter().map(|line| Ok(read(line)?.fingerprint(HashAlg::Sha256)));
        let mut names = access.names.clone();
        names.push(access.address.clone());
        Ok(Self::Signed { cas: cas.collect::<Result<_, Fault>>()?, names })
    }

    /// What is asked of the host: one with several keys shows the one that is wanted.
    pub(super) fn preferred(&self) -> Preferred {
        let mut preferred = Preferred::DEFAULT;
        match self {
            Self::Pinned(key) => {
                preferred.key = Cow::Owned(match key.algorithm() {
                    Algorithm::Rsa { .. } => rsa(),
                    other => vec![other],
                });
            }
            Self::Signed { .. } => {
                let curves = [EcdsaCurve::NistP256, EcdsaCurve::NistP384, EcdsaCurve::NistP521];
                let mut all = vec![Algorithm::Ed25519];
                all.extend(curves.map(|curve| Algorithm::Ecdsa { curve }));
                all.extend(rsa());
                preferred.host_key_certificates = Cow::Owned(all);
            }
            Self::Nothing => {}
        }
        preferred
    }

    /// Looks at what a host shows.
    pub(super) fn judge(&self, shown: &PublicKeyOrCertificate) -> Shown {
        let key = shown.public_key();
        let why_not = match (self, shown.certificate()) {
            (Self::Pinned(pinned), _) if pinned.key_data() == key.key_data() => None,
            (Self::Pinned(_) | Self::Nothing, _) => Some("it is not the pinned key".to_owned()),
            (Self::Signed { .. }, None) => {
                Some("the host has no certificate of a host CA for it".to_owned())
            }
            (Self::Signed { cas, names }, Some(certificate)) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |s| s.as_secs());
                refused(certificate, cas, names, now)
            }
        };
        Shown { key, why_not }
    }
}

fn rsa() -> Vec<Algorithm> {
    vec![
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ]
}

/// Why a certificate does not vouch for a host; `None` if it does.
fn refused(
    certificate: &Certificate,
    cas: &[Fingerprint],
    names: &[String],
    now: u64,
) -> Option<String> {
    let ca = certificate.signature_key().fingerprint(HashAlg::Sha256);
    if certificate.cert_type() != CertType::Host {
        return Some("its certificate is one for users".to_owned());
    }
    if !cas.contains(&ca) {
        return Some(format!(
            "its certificate is signed by {ca}, which is no host CA of the cluster"
        ));
    }
    if now < certificate.valid_after() || now >= certificate.valid_before() {
        return Some("its certificate is not valid now; sign the host's key again".to_owned());
    }
    if certificate.validate_at(now, cas).is_err() {
        return Some("the signature of its certificate is wrong".to_owned());
    }
    // None is defined for hosts (PROTOCOL.certkeys), and one that is not understood must be refused.
    if !certificate.critical_options().is_empty() {
        return Some("its certificate has critical options".to_owned());
    }
    let fits = |name: &String| names.iter().any(|own| own.eq_ignore_ascii_case(name));
    let principals = certificate.valid_principals();
    if principals.iter().any(fits) {
        return None;
    }
    Some(format!(
        "its certificate is for {}, not for {}; sign it with `ssh-keygen -h -n {}`",
        if principals.is_empty() { "no name".to_owned() } else { principals.join(", ") },
        names.join(" or "),
        names.join(",")
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use russh::keys::PrivateKey;
    use russh::keys::ssh_key::certificate::Builder;

    const NOW: u64 = 1_800_000_000;

    fn key() -> PrivateKey {
        PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap()
    }

    fn signed(ca: &PrivateKey, change: impl FnOnce(&mut Builder)) -> Certificate {
        signed_for(CertType::Host, ca, change)
    }

    fn signed_for(
        kind: CertType,
        ca: &PrivateKey,
        change: impl FnOnce(&mut Builder),
    ) -> Certificate {
        let host = key();
        let data = host.public_key().key_data().clone();
        let mut builder = Builder::new([7; 16], data, NOW - 10, NOW + 10).unwrap();
        builder.cert_type(kind).unwrap();
        change(&mut builder);
        builder.sign(ca).unwrap()
    }

    #[test]
    fn a_certificate_vouches_for_its_names_in_its_time() {
        let (ca, other) = (key(), key());
        let cas = [ca.public_key().fingerprint(HashAlg::Sha256)];
        let names = ["worker-1".to_owned(), "10.0.0.7".to_owned()];
        let named = |builder: &mut Builder| {
            builder.valid_principal("Worker-1").unwrap();
        };
        let judge = |certificate: &Certificate, now| {
            refused(certificate, &cas, &names, now).unwrap_or_else(|| "fits".into())
        };
        let good = signed(&ca, named);
        assert_eq!(judge(&good, NOW), "fits");
        for now in [NOW - 11, NOW + 10] {
            assert!(judge(&good, now).contains("not valid now"));
        }
        assert!(judge(&signed(&other, named), NOW).contains("no host CA"));
        let elsewhere = signed(&ca, |b| {
            b.valid_principal("worker-2").unwrap();
        });
        let said = judge(&elsewhere, NOW);
        assert!(said.contains("for worker-2, not for worker-1 or 10.0.0.7"), "{said}");
        let any = signed(&ca, |b| {
            b.all_principals_valid().unwrap();
        });
        assert!(judge(&any, NOW).contains("no name"));
        let user = signed_for(CertType::User, &ca, named);
        assert!(judge(&user, NOW).contains("for users"));
        let critical = signed(&ca, |b| {
            named(b);
            b.critical_option("force-command", "x").unwrap();
        });
        assert!(judge(&critical, NOW).contains("critical options"));
    }
}
