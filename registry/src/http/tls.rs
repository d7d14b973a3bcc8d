//! TLS of the registry's port: rustls, certificates that are reloaded when they change, and clients
//! that show a certificate of their own.
//!
//! The files are looked at when a connection comes, at most once a second. New ones that cannot be
//! used leave the old ones in place and a warning in the log: a renewal that went wrong must not take
//! the registry down.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, crypto};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Files are looked at no more often than this.
const LOOK: Duration = Duration::from_secs(1);

/// Which certificate the port shows, and whose it wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate and those between it and its root.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1, without a password.
    pub key: PathBuf,
    /// PEM: who signs the certificates that clients must show (mutual TLS).
    pub client_authority: Option<PathBuf>,
}

/// Why the port cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no PEM file with {wanted}", path.display())]
    Pem { path: PathBuf, wanted: &'static str },
    #[error("the certificate of {} cannot be used", path.display())]
    Certificate {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("{} cannot be used to check clients", path.display())]
    Authority { path: PathBuf, reason: String },
}

/// Who a client says it is, by a certificate that was verified (RFC 8446, section 4.4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's common name, else its first DNS name or mail address.
    pub name: String,
}

/// The port's TLS. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: TlsFiles,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ServerConfig>,
    stamps: Vec<Option<Stamp>>,
    /// The files of which a warning told last that they cannot be read.
    warned: Vec<Option<Stamp>>,
    looked: Instant,
}

/// What changes when a file is replaced, written or made readable. The time of the inode's change
/// cannot be set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Tls {
    /// Reads the files.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        // Stamps first: a change while the files are read is seen by the next look.
        let stamps = stamps(&files);
        let state = State {
            config: Arc::new(config(&files)?),
            stamps,
            warned: Vec::new(),
            looked: Instant::now(),
        };
        let state = Mutex::new(state);
        Ok(Self(Arc::new(Inner { files, state })))
    }

    /// The configuration for a connection that begins now.
    fn current(&self) -> Arc<ServerConfig> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            let found = stamps(&self.0.files);
            if found != state.stamps {
                state.follow(found, config(&self.0.files));
            }
        }
        Arc::clone(&state.config)
    }

    /// The handshake.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.current()).accept(stream).await
    }
}

impl State {
    /// Takes up changed files, or says once why not. Ones that could not be read are tried again: the
    /// reason may pass (no descriptor was free) without changing them.
    fn follow(&mut self, found: Vec<Option<Stamp>>, read: Result<ServerConfig, TlsError>) {
        let error = match read {
            Ok(config) => {
                tracing::info!("certificates were reloaded");
                self.config = Arc::new(config);
                self.stamps = found;
                return;
            }
            Err(error) => error,
        };
        if found != self.warned {
            tracing::warn!(?error, "new certificates cannot be used, the old ones stay");
            self.warned.clone_from(&found);
        }
        if !matches!(error, TlsError::Read { .. }) {
            self.stamps = found;
        }
    }
}

/// Who is at the other end of an accepted connection.
pub(super) fn client(stream: &TlsStream<TcpStream>) -> Option<ClientCertificate> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates()?.first()?;
    let name = name_of(certificate)?;
    Some(ClientCertificate { name })
}

fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let common = parsed.subject().iter_common_name().next();
    if let Some(name) = common.and_then(|name| name.as_str().ok()) {
        return Some(name.to_owned());
    }
    let alternatives = parsed.subject_alternative_name().ok()??;
    let names = &alternatives.value.general_names;
    names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => Some((*name).to_owned()),
        _ => None,
    })
}

fn stamps(files: &TlsFiles) -> Vec<Option<Stamp>> {
    let paths = [
        Some(&files.certificate),
        Some(&files.key),
        files.client_authority.as_ref(),
    ];
    let stamp = |path: &PathBuf| std::fs::metadata(path).ok().as_ref().map(Stamp::of);
    paths.into_iter().flatten().map(stamp).collect()
}

fn config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|_| TlsError::Pem {
        path: files.key.clone(),
        wanted: "a private key without a password",
    })?;
    let provider = Arc::new(crypto::ring::default_provider());
    let certificate = |source| TlsError::Certificate {
        path: files.certificate.clone(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(certificate)?;
    let builder = match &files.client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |reason: String| TlsError::Authority {
                path: path.clone(),
                reason,
            };
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots
                    .add(root)
                    .map_err(|error| unusable(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| unusable(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(certificate)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::Pem {
            path: path.to_owned(),
            wanted: "certificates",
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{FileTimes, OpenOptions};

    use super::*;

    #[test]
    fn a_write_with_its_time_set_back_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "one").unwrap();
        let before = std::fs::metadata(&path).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&path, "two").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let times = FileTimes::new().set_modified(before.modified().unwrap());
        file.set_times(times).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
        assert_ne!(Stamp::of(&before), Stamp::of(&after));
    }

    #[test]
    fn files_that_could_not_be_read_are_tried_again() {
        let builder =
            ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap();
        let resolver = Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
        let config = builder.with_no_client_auth().with_cert_resolver(resolver);
        let mut state = State {
            config: Arc::new(config),
            stamps: vec![None],
            warned: Vec::new(),
            looked: Instant::now(),
        };
        let path = PathBuf::from("key");
        let found = vec![None, None];
        let source = io::Error::from_raw_os_error(24);
        let busy = TlsError::Read {
            path: path.clone(),
            source,
        };
        state.follow(found.clone(), Err(busy));
        assert_ne!(state.stamps, found, "the next look tries again");
        let wanted = "certificates";
        state.follow(found.clone(), Err(TlsError::Pem { path, wanted }));
        assert_eq!(state.stamps, found, "nonsense stays nonsense");
    }
}
