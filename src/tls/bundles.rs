//! Whom we believe: the root certificates of each trust domain, and lists of what was revoked.

use std::{collections::BTreeMap, time::SystemTime};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{
    leaf::{Validity, moment},
    pem::{self, PemError},
};

/// The roots of each trust domain. A domain without one is not believed in anything.
#[derive(Debug, Clone, Default)]
pub struct Bundles {
    domains: BTreeMap<Box<str>, Bundle>,
}

/// One trust domain's roots.
#[derive(Debug, Clone)]
pub(super) struct Bundle {
    /// One anchor a root, in the order of `validity`.
    pub anchors: Box<[TrustAnchor<'static>]>,
    pub validity: Box<[Validity]>,
}

/// Why roots or lists cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("the roots of {domain} cannot be used: {why}")]
    Pem {
        domain: String,
        #[source]
        why: PemError,
    },
    #[error("the bundle of {0} is empty: nobody could be believed")]
    Empty(String),
    #[error("root {at} of {domain} cannot be used: {why}")]
    Root {
        domain: String,
        at: usize,
        why: String,
    },
    #[error("the roots of {0} are said twice")]
    Twice(String),
    #[error("the revocation lists cannot be used: {0}")]
    ListPem(#[source] PemError),
    #[error("revocation list {at} cannot be used: {why}")]
    List { at: usize, why: String },
}

impl Bundles {
    /// Adds a domain's roots from PEM text.
    pub fn add_pem(&mut self, domain: &str, text: &[u8]) -> Result<(), BundleError> {
        match pem::certificates(text) {
            Ok(roots) => self.add(domain, &roots),
            Err(PemError::Absent(_)) => Err(BundleError::Empty(domain.to_owned())),
            Err(why) => Err(BundleError::Pem {
                domain: domain.to_owned(),
                why,
            }),
        }
    }

    /// Adds a domain's roots.
    pub fn add(&mut self, domain: &str, roots: &[CertificateDer<'_>]) -> Result<(), BundleError> {
        if roots.is_empty() {
            return Err(BundleError::Empty(domain.to_owned()));
        }
        if self.domains.contains_key(domain) {
            return Err(BundleError::Twice(domain.to_owned()));
        }
        let (mut anchors, mut validity) = (Vec::new(), Vec::new());
        for (at, root) in roots.iter().enumerate() {
            let broken = |why: String| BundleError::Root {
                domain: domain.to_owned(),
                at: at + 1,
                why,
            };
            validity.push(Validity::of_root(root).map_err(|why| broken(why.to_owned()))?);
            let anchor =
                anchor_from_trusted_cert(root).map_err(|error| broken(error.to_string()))?;
            anchors.push(anchor.to_owned());
        }
        let bundle = Bundle {
            anchors: anchors.into(),
            validity: validity.into(),
        };
        self.domains.insert(domain.into(), bundle);
        Ok(())
    }

    pub(super) fn of(&self, domain: &str) -> Option<&Bundle> {
        self.domains.get(domain)
    }

    /// The trust domains with the number of their roots.
    pub fn domains(&self) -> impl Iterator<Item = (&str, usize)> {
        self.domains
            .iter()
            .map(|(domain, bundle)| (&**domain, bundle.anchors.len()))
    }
}

/// Lists of revoked certificates.
///
/// A certificate that no list speaks of counts as not revoked. A list past its date keeps counting: what it revokes
/// stays revoked, and an alarm tells the operator.
#[derive(Debug, Default)]
pub struct Revocations {
    pub(super) lists: Vec<CertRevocationList<'static>>,
    next_update: Option<SystemTime>,
}

impl Revocations {
    /// A file of nothing but space is no list.
    pub fn from_pem(text: &[u8]) -> Result<Self, BundleError> {
        if text.trim_ascii().is_empty() {
            return Ok(Revocations::default());
        }
        Self::new(&pem::revocation_lists(text).map_err(BundleError::ListPem)?)
    }

    pub fn new(lists: &[CertificateRevocationListDer<'_>]) -> Result<Self, BundleError> {
        let mut read = Revocations::default();
        for (at, list) in lists.iter().enumerate() {
            let broken = |why: String| BundleError::List { at: at + 1, why };
            let parsed = OwnedCertRevocationList::from_der(list)
                .map_err(|error| broken(error.to_string()))?;
            read.lists.push(parsed.into());
            let (_, dated) = CertificateRevocationList::from_der(list)
                .map_err(|error| broken(error.to_string()))?;
            if let Some(next) = dated.next_update().map(moment) {
                read.next_update = Some(read.next_update.map_or(next, |first| first.min(next)));
            }
        }
        Ok(read)
    }

    /// When the first of the lists should have been replaced.
    pub fn next_update(&self) -> Option<SystemTime> {
        self.next_update
    }

    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tls::tests::{DAY, ROOT, id, root};

    fn add(text: &str) -> Result<(), BundleError> {
        Bundles::default().add_pem("mesh.example", text.as_bytes())
    }

    #[test]
    fn an_empty_bundle_is_refused() {
        let empty = BundleError::Empty("mesh.example".to_owned());
        assert_eq!(add(""), Err(empty.clone()));
        assert_eq!(add("# roots will come\n"), Err(empty));
    }

    #[test]
    fn what_is_no_root_is_refused() {
        assert!(add(ROOT.certificate()).is_ok());
        let leaf = ROOT.issue(&id("web"), DAY).unwrap().certificate;
        assert!(matches!(add(&leaf), Err(BundleError::Root { at: 1, .. })));
        let torn = &ROOT.certificate()[..100];
        assert!(matches!(add(torn), Err(BundleError::Pem { .. })));
    }

    #[test]
    fn a_domain_is_said_once() {
        let mut bundles = Bundles::default();
        bundles
            .add_pem("mesh.example", ROOT.certificate().as_bytes())
            .unwrap();
        let again = bundles.add_pem(
            "mesh.example",
            root("mesh.example").certificate().as_bytes(),
        );
        assert_eq!(again, Err(BundleError::Twice("mesh.example".to_owned())));
        assert_eq!(bundles.domains().collect::<Vec<_>>(), [("mesh.example", 1)]);
    }

    #[test]
    fn the_first_date_of_all_lists_counts() {
        let soon = SystemTime::now() + Duration::from_secs(60);
        let lists = ROOT.revoke(&[], soon + DAY).unwrap() + &ROOT.revoke(&[], soon).unwrap();
        let read = Revocations::from_pem(lists.as_bytes()).unwrap();
        assert!(read.next_update().unwrap() <= soon);
        assert!(Revocations::from_pem(b"\n").unwrap().is_empty());
        assert!(Revocations::from_pem(b"# none").is_err());
        assert!(Revocations::from_pem(ROOT.certificate().as_bytes()).is_err());
    }
}
