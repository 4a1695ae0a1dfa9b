//! Certificates for stories: a trust domain's authority, good leaves and bad ones, revocation lists, and the folder that
//! a sidecar, openssl, curl or Envoy reads them from.
//!
//! Made by rcgen, not by the code under test.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

/// No two certificates of a test run share a number.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// The root of one trust domain, with its key.
pub struct Authority {
    domain: String,
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new root. Another of the same domain is another root: the next one in a rotation, or an impostor's.
    pub fn new(domain: &str) -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = format!("{domain} root {serial}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial.into());
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + 24 * HOUR).into();
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root").pem();
        Authority {
            domain: domain.to_owned(),
            root,
            issuer: Issuer::new(params, key),
        }
    }

    /// The root, in PEM.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The root and its key, in PEM, for who else is to sign with it.
    pub fn root_and_key(&self) -> String {
        format!("{}{}", self.root, self.issuer.key().serialize_pem())
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `spiffe://DOMAIN/ns/shop/sa/NAME`.
    pub fn id(&self, account: &str) -> String {
        format!("spiffe://{}/ns/shop/sa/{account}", self.domain)
    }

    /// The good certificate of a service account of the namespace `shop`, valid for an hour.
    ///
    /// It also has the name `NAME.test`, for peers that look for one.
    pub fn leaf(&self, account: &str) -> Leaf {
        let name = format!("{account}.test");
        self.sign(Wanted::default().uri(&self.id(account)).name(&name))
    }

    /// Any certificate, good or not.
    pub fn sign(&self, wanted: Wanted) -> Leaf {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(serial.into());
        params.not_before = wanted.from.into();
        params.not_after = wanted.until.into();
        params.subject_alt_names = wanted.names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            serial,
        }
    }

    /// The list of these, in PEM, as of now and for an hour.
    pub fn revoke(&self, leaves: &[&Leaf]) -> String {
        self.revocations(leaves, SystemTime::now() - Duration::from_secs(1), HOUR)
    }

    /// A list whose next update was due a minute ago.
    pub fn stale_revocations(&self, leaves: &[&Leaf]) -> String {
        self.revocations(leaves, SystemTime::now() - HOUR, 59 * HOUR / 60)
    }

    fn revocations(&self, leaves: &[&Leaf], made: SystemTime, good_for: Duration) -> String {
        let revoked = |leaf: &&Leaf| RevokedCertParams {
            serial_number: leaf.serial.into(),
            revocation_time: made.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: made.into(),
            next_update: (made + good_for).into(),
            crl_number: SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed)),
            issuing_distribution_point: None,
            revoked_certs: leaves.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = list.signed_by(&self.issuer).expect("signed");
        signed.pem().expect("PEM")
    }
}

/// What a certificate is to say. The default: no name at all, from an hour ago and for an hour.
pub struct Wanted {
    names: Vec<SanType>,
    from: SystemTime,
    until: SystemTime,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            names: Vec::new(),
            from: SystemTime::now() - HOUR,
            until: SystemTime::now() + HOUR,
        }
    }
}

impl Wanted {
    /// One more URI; what is no SPIFFE id is written as it is.
    pub fn uri(mut self, text: &str) -> Self {
        self.names.push(uri(text));
        self
    }

    /// One more DNS name.
    pub fn name(mut self, name: &str) -> Self {
        let name = name.try_into().expect("ASCII");
        self.names.push(SanType::DnsName(name));
        self
    }

    /// It ended a minute ago.
    pub fn expired(mut self) -> Self {
        self.until = SystemTime::now() - Duration::from_secs(60);
        self
    }

    /// It begins in half an hour.
    pub fn not_yet(mut self) -> Self {
        self.from = SystemTime::now() + HOUR / 2;
        self
    }

    /// It ends so soon.
    pub fn lasting(mut self, lifetime: Duration) -> Self {
        self.until = SystemTime::now() + lifetime;
        self
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
    serial: u64,
}

/// A folder with `tls.crt`, `tls.key`, `ca.crt` and `ca.crl`, replaced in one step, as Kubernetes does with a volume.
///
/// The names are links through `..data`, a link to the folder that is current.
pub struct IdentityFolder {
    folder: TempDir,
    versions: AtomicU64,
}

impl IdentityFolder {
    /// `roots` are PEM, one behind the other.
    pub fn new(leaf: &Leaf, roots: &str) -> Self {
        let identity = IdentityFolder::empty();
        identity.replace(leaf, roots);
        identity
    }

    /// The links are there, and nothing behind them yet.
    pub fn empty() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("weft-identity-")
            .tempdir()
            .expect("a temporary folder");
        for name in ["tls.crt", "tls.key", "ca.crt", "ca.crl"] {
            let link = folder.path().join(name);
            symlink(Path::new("..data").join(name), link).expect("a new link");
        }
        IdentityFolder {
            folder,
            versions: AtomicU64::new(0),
        }
    }

    /// Another identity, with an empty revocation list.
    pub fn replace(&self, leaf: &Leaf, roots: &str) {
        self.replace_with_revocations(leaf, roots, "");
    }

    pub fn replace_with_revocations(&self, leaf: &Leaf, roots: &str, revocations: &str) {
        let number = self.versions.fetch_add(1, Ordering::Relaxed);
        let version = self.folder.path().join(format!("..{number}"));
        fs::create_dir(&version).expect("a new folder");
        let files = [
            ("tls.crt", leaf.certificate.as_str()),
            ("tls.key", leaf.key.as_str()),
            ("ca.crt", roots),
            ("ca.crl", revocations),
        ];
        for (name, text) in files {
            fs::write(version.join(name), text).expect("the folder can be written");
        }
        let draft = self.folder.path().join("..data.draft");
        symlink(version.file_name().expect("named above"), &draft).expect("a new link");
        fs::rename(draft, self.folder.path().join("..data")).expect("one file system");
    }

    /// Lets every user read it, as one that a sidecar of another user has.
    pub fn open_to_all(self) -> Self {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.folder.path(), mode).expect("our own folder");
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn certificate(&self) -> String {
        self.text("tls.crt")
    }

    pub fn key(&self) -> String {
        self.text("tls.key")
    }

    pub fn roots(&self) -> String {
        self.text("ca.crt")
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The value of `identity:` in a routing file, on one line.
    pub fn yaml(&self) -> String {
        format!(
            "{{ files: {{ certificate: {}, key: {}, roots: {} }} }}",
            self.certificate(),
            self.key(),
            self.roots()
        )
    }

    /// The same with the revocation list.
    pub fn yaml_with_revocations(&self) -> String {
        let crl = self.text("ca.crl");
        self.yaml().replace(" } }", &format!(", crl: {crl} }} }}"))
    }
}
