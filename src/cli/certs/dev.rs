//! `weft certs dev`: a development root and a certificate for each service, in a folder that git ignores.
//!
//! The root is made once and used again, so that what runs already goes on believing what is made later.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    cli::print,
    tls::{
        issue::Authority,
        show::{contents, said},
    },
    units::{Hostname, SpiffeId, Time},
};

/// The root of a development trust domain lasts this long.
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
const SECRET: u32 = 0o600;

/// Makes a development root and certificates: FOLDER/ca.crt, and FOLDER/NAME.crt with FOLDER/NAME.key for each service.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// The services: `web`, `shop/web` for a namespace of its own, or a whole SPIFFE id.
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    /// Where they are written.
    #[arg(long, value_name = "FOLDER", default_value = "certs")]
    dir: PathBuf,
    /// Of ids that do not say one.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: Hostname,
    /// Of services that do not say one.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// How long the certificates of services count; the root counts ten years.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    lifetime: Time,
}

impl Dev {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let wanted: Vec<Wanted> = self
            .services
            .iter()
            .map(|said| self.wanted(said))
            .collect::<Result<_, _>>()?;
        for (at, one) in wanted.iter().enumerate() {
            if wanted[..at].iter().any(|other| other.file == one.file) {
                bail!("two of the services would be written to {}.crt", one.file);
            }
        }
        self.folder()?;
        let (root, mut told) = self.root()?;
        for Wanted { id, file } in wanted {
            let issued = root
                .issue(&id, self.lifetime.duration())
                .context("the certificate")?;
            let (certificate, key) = (
                self.dir.join(format!("{file}.crt")),
                self.dir.join(format!("{file}.key")),
            );
            write(&key, &issued.key, SECRET)?;
            write(&certificate, &issued.certificate, 0o644)?;
            let until = said(SystemTime::now() + self.lifetime.duration());
            told += &format!(
                "{}\n  {id}, until {until}, its key beside it\n",
                certificate.display()
            );
        }
        print(&told)
    }

    fn wanted(&self, said: &str) -> anyhow::Result<Wanted> {
        let id = match said.split_once('/') {
            _ if said.starts_with("spiffe://") => SpiffeId::parse(said)?,
            Some((namespace, service)) => self.of(namespace, service)?,
            None => self.of(&self.namespace, said)?,
        };
        if id.trust_domain() != self.trust_domain.as_str() {
            bail!(
                "{id} is of another trust domain than the root, {}: say --trust-domain and another --dir",
                self.trust_domain
            );
        }
        let file = id.path().rsplit('/').next().unwrap_or_default().to_owned();
        if file.is_empty() || file == "ca" {
            bail!("{id} gives no name for a file: its last part is `{file}`");
        }
        Ok(Wanted { id, file })
    }

    fn of(&self, namespace: &str, service: &str) -> anyhow::Result<SpiffeId> {
        Ok(SpiffeId::of_service_account(
            self.trust_domain.as_str(),
            namespace,
            service,
        )?)
    }

    /// A folder that is new keeps what is in it out of git, wherever it is.
    fn folder(&self) -> anyhow::Result<()> {
        let made = !self.dir.exists();
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("the folder {}", self.dir.display()))?;
        if made {
            write(&self.dir.join(".gitignore"), "*\n", 0o644)?;
        }
        Ok(())
    }

    /// The root that is there, else a new one; and what to say of it.
    fn root(&self) -> anyhow::Result<(Authority, String)> {
        let (certificate, key) = (self.dir.join("ca.crt"), self.dir.join("ca.key"));
        match (read(&certificate)?, read(&key)?) {
            (Some(pem), Some(secret)) => {
                self.fits(&certificate, &pem)?;
                let root = Authority::load(&pem, &secret)
                    .with_context(|| format!("{} and its key", certificate.display()))?;
                Ok((
                    root,
                    format!("{}\n  the root that was there\n", certificate.display()),
                ))
            }
            (None, None) => {
                let domain = self.trust_domain.as_str();
                let name = format!("weft development root of {domain}");
                let root = Authority::new(domain, &name, ROOT_LIFETIME).context("the root")?;
                write(&key, root.key(), SECRET)?;
                write(&certificate, root.certificate(), 0o644)?;
                Ok((
                    root,
                    format!(
                        "{}\n  a new root for {domain}; whoever has ca.key can be anyone in it\n",
                        certificate.display()
                    ),
                ))
            }
            (Some(_), None) => bail!(
                "{} is there and its key {} is not: remove the one or bring the other",
                certificate.display(),
                key.display()
            ),
            (None, Some(_)) => bail!(
                "{} is there and its certificate {} is not: remove the one or bring the other",
                key.display(),
                certificate.display()
            ),
        }
    }

    fn fits(&self, file: &Path, pem: &str) -> anyhow::Result<()> {
        let found = contents(pem.as_bytes()).with_context(|| file.display().to_string())?;
        let Some(root) = found.certificates.first() else {
            bail!("{} is no certificate", file.display());
        };
        let ours = format!("spiffe://{}", self.trust_domain);
        if root.name != ours {
            bail!(
                "{} is the root of {}, not of {ours}: say another --dir",
                file.display(),
                root.name
            );
        }
        if root.until < SystemTime::now() {
            bail!("{} has ended: remove it and its key", file.display());
        }
        Ok(())
    }
}

struct Wanted {
    id: SpiffeId,
    file: String,
}

fn read(file: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}

/// Writes a file whole, never readable for others before it has its mode.
fn write(file: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let done = (|| {
        let mut options = OpenOptions::new();
        let mut open: File = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&partial)?;
        // One that was left behind keeps the mode it had.
        open.set_permissions(Permissions::from_mode(mode))?;
        open.write_all(text.as_bytes())?;
        fs::rename(&partial, file)
    })();
    done.with_context(|| file.display().to_string())
}
