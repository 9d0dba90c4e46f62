//! `lockkeeper certs`: mint, show and check certificates.
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::certs::check::{self, Finding, Peers, Purpose};
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
    /// Show certificates in words: chain, names, validity, key. None is verified.
    ///
    /// Exit status 0; 1 if there is nothing to show or a part of it can't be read.
    Show {
        /// A PEM file, a directory with tls.crt and ca.crt, or HOST:PORT of a server.
        target: String,
        /// The name that a server is asked for; by default its host. Behind a forwarded port, the one of the gateway's hosts.
        #[arg(long, value_name = "NAME")]
        server_name: Option<String>,
    },
    /// Say whether a directory would work for a role, and if not, why and what to do.
    ///
    /// Exit status 0 if it would, with warnings or without; 1 if it would not; 2 if the arguments are wrong.
    Check {
        /// The directory with tls.crt, tls.key and ca.crt.
        dir: PathBuf,
        /// The role that shows the certificate.
        #[arg(long, value_enum, default_value_t = Role::Queue)]
        role: Role,
        /// The namespace of a queue; required for that role, whose name depends on it.
        #[arg(long, value_parser = names::namespace)]
        namespace: Option<String>,
        /// It has to work for callers that expect the legacy name data-plane.knative.dev too, as Knative's own activator.
        #[arg(long)]
        legacy_name: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// kn-user- and the namespace.
    Queue,
    /// kn-routing.
    Activator,
    /// kn-routing.
    Gateway,
}

#[derive(Debug, Args)]
struct Mint {
    /// Where tls.crt, tls.key and ca.crt go; the key of a new authority goes to ca.key beside them. Files that are there
    /// already are replaced with --ca only.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// The role that shows the certificate.
    #[arg(long, value_enum, default_value_t = Role::Queue)]
    role: Role,
    /// The namespace of a queue.
    #[arg(long, default_value = "default", value_parser = names::namespace)]
    namespace: String,
    /// Put the legacy name data-plane.knative.dev beside the role's, as Knative's own certificates have it.
    #[arg(long)]
    legacy_name: bool,
    /// A further name, or an IP address; may be repeated.
    #[arg(long = "san", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    sans: Vec<String>,
    /// Kind of the leaf's key: rsa2048, rsa3072, rsa4096, p256, p384, p521 or ed25519.
    #[arg(long, value_name = "KIND", default_value = "p256")]
    key_type: KeyKind,
    /// Write the key as PKCS#1 or SEC1, cert-manager's default, instead of PKCS#8 (Ed25519 has only that).
    #[arg(long)]
    traditional: bool,
    /// Days of validity.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=36_500))]
    days: i64,
    /// A directory with ca.crt and ca.key of an authority to use, instead of a new one.
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
    /// Kind of the key of a new authority, and of the intermediate.
    #[arg(long, value_name = "KIND", default_value = "p256")]
    ca_key_type: KeyKind,
    /// Put an intermediate between authority and leaf.
    #[arg(long)]
    intermediate: bool,
    /// Make the repository's test certificates in this directory, and nothing else.
    #[arg(long, value_name = "DIR", exclusive = true)]
    fixtures: Option<PathBuf>,
}

/// Wrong arguments, as clap ends with them.
const USAGE: u8 = 2;

impl Command {
    /// Does it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let outcome = match self.what {
            What::Mint(mint) => mint.run().map(|text| (text, true)),
            What::Show { target, server_name } => {
                inspect::show(&target, server_name.as_deref()).map(|shown| (shown.text, shown.complete))
            }
            What::Check { role: Role::Queue, namespace: None, .. } => {
                eprintln!("lockkeeper certs: --namespace is required for the role queue: its name depends on it");
                return ExitCode::from(USAGE);
            }
            What::Check { dir, role, namespace, legacy_name } => {
                let purpose = Purpose {
                    name: role.name(namespace.as_deref().unwrap_or_default()),
                    shown_to: role.peers(),
                    legacy_name,
                };
                let findings = check::directory(&dir, &purpose);
                Ok((in_words(&findings), check::works(&findings)))
            }
        };
        match outcome {
            Ok((text, good)) => {
                // A reader that has seen enough and gone is no failure.
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::from(u8::from(!good))
            }
            Err(why) => {
                eprintln!("lockkeeper certs: {why}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Role {
    /// The name that its certificate has to bear.
    fn name(self, namespace: &str) -> String {
        match self {
            Self::Queue => names::san_user(namespace),
            Self::Activator | Self::Gateway => names::SAN_ROUTING.to_owned(),
        }
    }

    fn peers(self) -> Peers {
        match self {
            Self::Queue => Peers::Callers,
            Self::Activator => Peers::CallersAndCalled,
            Self::Gateway => Peers::Called,
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
        let mut sans = vec![self.role.name(&self.namespace)];
        if self.legacy_name {
            sans.push(names::SAN_LEGACY.to_owned());
        }
        sans.extend(self.sans.iter().cloned());
        let (dir, authority) = (self.dir.display(), self.authority()?);
        self.pair(&authority, &sans).map_err(|error| match error {
            mint::Error::File(error) => format!("{dir}: {error}"),
            other => other.to_string(),
        })?;
        let authority = match self.ca {
            Some(_) => "",
            None => ", and ca.key to issue more with (--ca)",
        };
        let (sans, days) = (sans.join(", "), self.days);
        Ok(format!("{dir}: tls.crt and tls.key for {sans}, valid for {days} days; ca.crt{authority}\n"))
    }

    fn pair(&self, authority: &Ca, sans: &[String]) -> Result<(), mint::Error> {
        let signer = match self.intermediate {
            true => Some(authority.intermediate("lockkeeper intermediate", self.ca_key_type)?),
            false => None,
        };
        let spec = LeafSpec {
            validity: Validity::days(self.days),
            key_kind: self.key_type,
            encoding: if self.traditional { Encoding::Traditional } else { Encoding::Pkcs8 },
            ..LeafSpec::new(sans)
        };
        let pair = signer.as_ref().unwrap_or(authority).leaf(&spec)?;
        mint::write_dir(&self.dir, &pair, authority.root_pem())?;
        match self.ca {
            Some(_) => Ok(()),
            None => Ok(mint::write_secret(&self.dir.join(CA_KEY), &authority.key_pem())?),
        }
    }

    /// The authority that was named, or a new one; never one in the place of another, whose key would be lost.
    fn authority(&self) -> Result<Ca, String> {
        let Some(dir) = &self.ca else {
            let files = [CA_KEY, names::FILE_KEY, names::FILE_CERTIFICATE, names::FILE_CA];
            if let Some(file) = files.map(|name| self.dir.join(name)).into_iter().find(|file| file.exists()) {
                let (file, dir) = (file.display(), self.dir.display());
                return Err(format!(
                    "{file} is there already and would be lost: issue by the authority there with --ca {dir}, or write to \
                     another --dir"
                ));
            }
            return Ca::new("lockkeeper", self.ca_key_type).map_err(|error| error.to_string());
        };
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|error| format!("--ca: {}: {error}", path.display()))
        };
        let (certificate, key) = (read(names::FILE_CA)?, read(CA_KEY)?);
        Ca::from_pem(&certificate, &key).map_err(|error| format!("--ca: {}: {error}", dir.display()))
    }
}

/// The file of an authority's private key, which no role reads.
const CA_KEY: &str = "ca.key";

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
