//! `lockkeeper certs`: mint, show and check certificates.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::certs::check::{self, Finding};
use crate::certs::encoding::Encoding;
use crate::certs::mint::{self, Ca, KeyKind, LeafSpec, Validity};
use crate::certs::{fixtures, inspect};
use crate::knative::names;

/// The arguments of `certs`.
#[derive(Debug, Args)]
pub struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make an authority, perhaps an intermediate, and a leaf for a role.
    Mint(Mint),
    /// Show certificates in words: chain, names, validity, key. A server's certificate is not verified.
    Show {
        /// A PEM file, a directory with tls.crt and ca.crt, or HOST:PORT.
        target: String,
    },
    /// Say whether a directory would work for a role, and if not, why and what to do. Exit status 1 if not.
    Check {
        /// The directory with tls.crt, tls.key and ca.crt.
        dir: PathBuf,
        #[command(flatten)]
        role: ForRole,
    },
}

#[derive(Debug, Args)]
struct ForRole {
    /// The role that shows the certificate.
    #[arg(long, value_enum, default_value_t = Role::Queue)]
    role: Role,
    /// The namespace of a queue; required for that role.
    #[arg(long)]
    namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Queue,
    Activator,
    Gateway,
}

#[derive(Debug, Args)]
struct Mint {
    /// Where tls.crt, tls.key and ca.crt go; the authority's key goes to ca.key beside them.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// The role that shows the certificate.
    #[arg(long, value_enum, default_value_t = Role::Queue)]
    role: Role,
    /// The namespace of a queue.
    #[arg(long, default_value = "default", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    namespace: String,
    /// Further names.
    #[arg(long = "san")]
    sans: Vec<String>,
    /// rsa2048, rsa3072, rsa4096, p256, p384, p521 or ed25519.
    #[arg(long, default_value = "p256")]
    key_type: KeyKind,
    /// Write the key as PKCS#1 or SEC1, cert-manager's default, instead of PKCS#8.
    #[arg(long)]
    traditional: bool,
    /// Days of validity.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=36_500))]
    days: i64,
    /// A directory with ca.crt and ca.key of an authority to use, instead of a new one.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Put an intermediate between authority and leaf.
    #[arg(long)]
    intermediate: bool,
    /// Make the repository's test certificates in this directory, and nothing else.
    #[arg(long)]
    fixtures: Option<PathBuf>,
}

impl Command {
    /// Does it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let outcome = match self.what {
            What::Mint(mint) => mint.run().map(|text| (text, true)),
            What::Show { target } => inspect::show(&target).map(|text| (text, true)),
            What::Check { dir, role } => match (role.role, role.namespace.as_deref().unwrap_or_default()) {
                (Role::Queue, "") => {
                    Err("--namespace is required for the role queue: its name depends on it".to_owned())
                }
                (role, namespace) => {
                    let findings = check::directory(&dir, &san(role, namespace));
                    Ok((in_words(&findings), check::works(&findings)))
                }
            },
        };
        match outcome {
            Ok((text, good)) => {
                print!("{text}");
                ExitCode::from(u8::from(!good))
            }
            Err(why) => {
                eprintln!("lockkeeper certs: {why}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Mint {
    fn run(&self) -> Result<String, String> {
        if let Some(dir) = &self.fixtures {
            return fixtures::write(dir)
                .map(|()| format!("fixtures are in {}\n", dir.display()))
                .map_err(|error| error.to_string());
        }
        self.pair().map_err(|error| error.to_string())
    }

    fn pair(&self) -> Result<String, mint::Error> {
        let authority = self.authority()?;
        let signer = match self.intermediate {
            true => Some(authority.intermediate("lockkeeper intermediate", KeyKind::P256)?),
            false => None,
        };
        let mut names = vec![san(self.role, &self.namespace)];
        names.extend(self.sans.iter().cloned());
        let spec = LeafSpec {
            validity: Validity::days(self.days),
            key_kind: self.key_type,
            encoding: if self.traditional { Encoding::Traditional } else { Encoding::Pkcs8 },
            ..LeafSpec::new(names.clone())
        };
        let pair = signer.as_ref().unwrap_or(&authority).leaf(&spec)?;
        mint::write_dir(&self.dir, &pair, authority.root_pem())?;
        if self.ca.is_none() {
            mint::write_secret(&self.dir.join("ca.key"), &authority.key_pem())?;
        }
        Ok(format!(
            "{}: tls.crt and tls.key for {}, valid for {} days, and ca.crt\n",
            self.dir.display(),
            names.join(", "),
            self.days
        ))
    }

    fn authority(&self) -> Result<Ca, mint::Error> {
        let read = |dir: &Path, name: &str| fs::read_to_string(dir.join(name));
        match &self.ca {
            Some(dir) => Ca::from_pem(&read(dir, "ca.crt")?, &read(dir, "ca.key")?),
            None => Ca::new("lockkeeper", KeyKind::P256),
        }
    }
}

fn san(role: Role, namespace: &str) -> String {
    match role {
        Role::Queue => names::san_user(namespace),
        Role::Activator | Role::Gateway => names::SAN_ROUTING.to_owned(),
    }
}

fn in_words(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| match finding {
            Finding::Good(what) => format!("ok       {what}\n"),
            Finding::Warning(what) => format!("warning  {what}\n"),
            Finding::Bad { what, remedy } => format!("BAD      {what}\n         -> {remedy}\n"),
        })
        .collect()
}
