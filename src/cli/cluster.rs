//! A store on a cluster: where it is, and with what it is opened.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

/// The password of the URL's user.
#[cfg(feature = "valkey")]
const PASSWORD: &str = "CLOAKROOM_PASSWORD";

/// The store on a cluster that a command looks at, in place of a directory.
#[derive(Debug, Args)]
#[command(next_help_heading = "Store on a cluster")]
pub(super) struct ClusterArgs {
    /// A store on a cluster of Valkey: valkey://user@host:port,host:port/NAME, or valkeys:// for TLS.
    ///
    /// A few of the nodes will do. Parameters may follow: ?replicas=N, relaxed, stated, patience=SECONDS. The password comes
    /// from CLOAKROOM_PASSWORD, or from the file that --password-file names.
    #[arg(long, global = true, value_name = "URL", conflicts_with_all = ["db", "offline", "live"])]
    pub(super) url: Option<String>,
    /// A file whose first line is the password of the URL's user.
    #[arg(long, global = true, value_name = "FILE", requires = "url")]
    password_file: Option<PathBuf>,
    /// Encrypt, and trust the authorities in this file (PEM) and no others.
    #[arg(long, global = true, value_name = "FILE", requires = "url")]
    cacert: Option<PathBuf>,
    /// Encrypt, and show the nodes this certificate (PEM).
    #[arg(long, global = true, value_name = "FILE", requires = "key_file")]
    cert: Option<PathBuf>,
    /// The key of that certificate (PEM).
    #[arg(long = "key", id = "key_file", global = true, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

#[cfg(feature = "valkey")]
pub(super) use cloakroom::cluster::ClusterOptions;

/// There is no value of it: a program without the feature opens no such store.
#[cfg(not(feature = "valkey"))]
#[derive(Debug, Clone)]
pub(super) enum ClusterOptions {}

#[cfg(not(feature = "valkey"))]
impl ClusterArgs {
    pub(super) fn options(self) -> Result<Option<ClusterOptions>> {
        if self.url.is_some() {
            anyhow::bail!(
                "this program was built without the feature `valkey`, which --url needs: build it with `cargo install \
                 cloakroom --features valkey-tls`"
            );
        }
        Ok(None)
    }
}

#[cfg(feature = "valkey")]
impl ClusterArgs {
    /// How the store is opened, if there is to be one.
    pub(super) fn options(self) -> Result<Option<ClusterOptions>> {
        use anyhow::{Context, bail};

        let Some(url) = &self.url else { return Ok(None) };
        let mut options = ClusterOptions::from_url(url)?;
        if options.has_password() {
            bail!(
                "the password stands in --url, where every user of this host sees it: give it with {PASSWORD} or \
                 --password-file"
            );
        }
        if let Some(path) = &self.password_file {
            let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
            options = options.password(text.lines().next().unwrap_or_default());
        } else if let Ok(password) = std::env::var(PASSWORD) {
            options = options.password(password);
        }
        self.with_certificates(options).map(Some)
    }

    #[cfg(feature = "valkey-tls")]
    fn with_certificates(self, mut options: ClusterOptions) -> Result<ClusterOptions> {
        if let Some(path) = self.cacert {
            options = options.ca_file(path);
        }
        if let Some((certificate, key)) = self.cert.zip(self.key) {
            options = options.client_certificate(certificate, key);
        }
        Ok(options)
    }

    #[cfg(not(feature = "valkey-tls"))]
    fn with_certificates(self, options: ClusterOptions) -> Result<ClusterOptions> {
        if self.cacert.is_some() || self.cert.is_some() {
            anyhow::bail!("this program was built without the feature `valkey-tls`, which certificates need");
        }
        Ok(options)
    }
}
