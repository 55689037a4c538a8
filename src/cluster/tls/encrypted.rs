//! Encryption by rustls.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redis::{Client, ConnectionInfo, RedisError, RedisResult};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Cause};

use super::NOT_ENCRYPTED;
use crate::error::{Error, Result};

/// The files that connections are encrypted with. They are read for each connection, so that renewed ones are taken.
#[derive(Debug, Clone, Default)]
pub(in crate::cluster) struct Tls {
    pub(in crate::cluster) ca: Option<PathBuf>,
    pub(in crate::cluster) client: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Refuses files that cannot be read, or that hold something else.
    pub(in crate::cluster) fn check(&self) -> Result<()> {
        let read = |path: &Path| std::fs::read(path).map_err(|e| Error::io("read", path, e));
        let bad = |setting, path: &Path, expected| {
            Err(Error::Setting { setting, value: path.display().to_string(), expected })
        };
        if let Some(path) = &self.ca
            && !has_certificates(&read(path)?)
        {
            return bad("the file of the authority", path, "it has to hold certificates in PEM");
        }
        let Some((certificate, key)) = &self.client else { return Ok(()) };
        if !has_certificates(&read(certificate)?) {
            return bad("the client's certificate", certificate, "it has to hold certificates in PEM");
        }
        if !has_key(&read(key)?) {
            return bad("the key of the client's certificate", key, "it has to hold a private key in PEM");
        }
        Ok(())
    }

    /// A way to a node.
    pub(in crate::cluster) fn client(&self, info: ConnectionInfo) -> RedisResult<Client> {
        // The client's crate takes what the process has chosen, and panics where that is nothing.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have been first.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let read = |path: &PathBuf| std::fs::read(path);
        let client_tls = match &self.client {
            Some((certificate, key)) => {
                Some(redis::ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
            }
            None => None,
        };
        let root_cert = self.ca.as_ref().map(read).transpose()?;
        Client::build_with_tls(info, redis::TlsCertificates { client_tls, root_cert })
    }
}

fn has_certificates(pem: &[u8]) -> bool {
    let all: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.is_ok_and(|all| !all.is_empty())
}

fn has_key(pem: &[u8]) -> bool {
    PrivateKeyDer::from_pem_slice(pem).is_ok()
}

/// The error, if to connect again would end in it again: a certificate that is not trusted stays so.
pub(in crate::cluster) fn refusal(node: &str, error: &RedisError) -> Option<Error> {
    let advice = match cause(error)? {
        Cause::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "no authority that is trusted has signed its certificate: give the file of the one that has"
        }
        Cause::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name or address: give it one with this (subjectAltName), or let the nodes \
             announce the name that is in it (cluster-announce-hostname, and cluster-preferred-endpoint-type hostname)"
        }
        Cause::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        ) => "its certificate is not valid at this time: renew it, or set this host's clock",
        Cause::AlertReceived(Alert::CertificateRequired | Alert::HandshakeFailure) => {
            "it wants a certificate of the client: give one, with its key"
        }
        Cause::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate,
        ) => "it does not trust the certificate of the client: give one that its own authority has signed",
        Cause::InvalidMessage(_) => NOT_ENCRYPTED,
        _ => "the two do not agree on how to encrypt it",
    };
    Some(Error::Tls { node: node.to_owned(), advice, source: error.clone().into() })
}

/// What the library that encrypts says, somewhere below.
fn cause(error: &RedisError) -> Option<&rustls::Error> {
    let mut next = error.source();
    while let Some(now) = next {
        let now = match now.downcast_ref::<Arc<dyn StdError + Send + Sync>>() {
            Some(shared) => &**shared as &(dyn StdError + 'static),
            None => now,
        };
        if let Some(found) = now.downcast_ref() {
            return Some(found);
        }
        next = match now.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => now.source(),
        };
    }
    None
}
