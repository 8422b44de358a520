//! TLS to far sides, the same for requests and for sockets: rustls on ring, with the certificates that the machine
//! trusts. TLS 1.3 alone. One client configuration for the whole process, made when the first far side needs it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::stream::Stream;
use super::tls_provider as provider;

/// Names a file of certificates to be trusted in place of the machine's.
const VARIABLE: &str = "SSL_CERT_FILE";
/// Where systems keep the certificates they trust.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/opt/etc/ssl/certs/ca-certificates.crt",
];
/// Longest file of certificates, in bytes.
const BUNDLE_LIMIT: u64 = 8 << 20;
/// Servers whose last session is remembered, to shake hands faster.
const SESSIONS: usize = 8;

/// Why there is no TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// The file that the environment names cannot be used.
    File(PathBuf, String),
    /// The host can have no certificate.
    Host(String),
    /// The library refuses.
    Setup(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, why) => write!(f, "{VARIABLE}={}: {why}", path.display()),
            Self::Host(host) => write!(f, "{host:?} is no name of a host"),
            Self::Setup(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for TlsError {}

/// What it takes to speak TLS. Clones are the same.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// The one of this process.
    pub fn shared() -> Result<Self, TlsError> {
        static SHARED: OnceLock<Result<Tls, TlsError>> = OnceLock::new();
        let make = || Self::trusting(roots(std::env::var_os(VARIABLE).map(PathBuf::from), BUNDLES)?);
        SHARED.get_or_init(make).clone()
    }

    /// One that trusts these certificates alone.
    pub fn trusting(roots: RootCertStore) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider::client()))
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Setup(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { config: Arc::new(config) })
    }

    /// TLS over a connection that does not block. Hands are shaken with the first bytes in either direction; a peer
    /// that is not `host` is an [`io::ErrorKind::InvalidData`] then. `host` may be an IPv6 address in brackets.
    pub fn over(&self, tcp: TcpStream, host: &str) -> Result<Box<dyn Stream>, TlsError> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        let session = ClientConnection::new(self.config.clone(), name).map_err(|e| TlsError::Setup(e.to_string()))?;
        Ok(Box::new(TlsStream { session, tcp }))
    }
}

/// The certificates to trust: those of the file that somebody names, else the machine's, else the ones built in.
fn roots(named: Option<PathBuf>, bundles: &[&str]) -> Result<RootCertStore, TlsError> {
    if let Some(path) = named.filter(|p| !p.as_os_str().is_empty()) {
        return match read_bundle(&path) {
            Ok(roots) if !roots.is_empty() => Ok(roots),
            Ok(_) => Err(TlsError::File(path, "no certificate in it".into())),
            Err(e) => Err(TlsError::File(path, e.to_string())),
        };
    }
    let found = bundles.iter().find_map(|path| {
        let roots = read_bundle(Path::new(path)).ok().filter(|roots| !roots.is_empty())?;
        log::debug!("tls.roots path={path} count={}", roots.len());
        Some(roots)
    });
    Ok(found.unwrap_or_else(|| {
        log::debug!("tls.roots built_in=true");
        RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
    }))
}

/// The certificates of a file in PEM. What else is in it, or cannot be read as a certificate, is passed over.
fn read_bundle(path: &Path) -> io::Result<RootCertStore> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BUNDLE_LIMIT).read_to_end(&mut bytes)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
    Ok(roots)
}

/// TLS over TCP, neither of which blocks.
struct TlsStream {
    session: ClientConnection,
    tcp: TcpStream,
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.session, &mut self.tcp).read(buffer)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.session, &mut self.tcp).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        rustls::Stream::new(&mut self.session, &mut self.tcp).flush()
    }
}

impl Stream for TlsStream {
    fn socket(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }

    fn wants_write(&self) -> bool {
        self.session.wants_write()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::{JoinHandle, spawn};
    use std::time::{Duration, Instant};

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;
    use crate::engine::cancel::{CancelReason, CancelToken};
    use crate::net::http::{Body, Http, HttpError, HttpErrorKind, Request, read_all};
    use crate::net::ws;

    const LIMIT: Duration = Duration::from_secs(20);

    fn data(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
    }

    fn trusting(name: &str) -> Tls {
        Tls::trusting(roots(Some(data(name)), &[]).unwrap()).unwrap()
    }

    type Secure = StreamOwned<ServerConnection, TcpStream>;

    /// A server with this certificate; `serve` gets each connection, until one says that it was the last.
    fn server(name: &str, mut serve: impl FnMut(Secure) -> bool + Send + 'static) -> (u16, JoinHandle<usize>) {
        let chain = CertificateDer::pem_file_iter(data(name)).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(data("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = spawn(move || {
            for (n, tcp) in listener.incoming().enumerate() {
                let session = ServerConnection::new(config.clone()).unwrap();
                if serve(StreamOwned::new(session, tcp.unwrap())) {
                    return n + 1;
                }
            }
            unreachable!("a listener goes on listening")
        });
        (port, thread)
    }

    /// Answers requests on one connection with so many bytes each.
    fn answer(stream: &mut Secure, requests: usize, length: usize) {
        for _ in 0..requests {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                head.push(byte[0]);
            }
            if head.is_empty() {
                return;
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; length]));
            let _ = stream.flush();
        }
    }

    fn get(http: &Http, url: &str, abort: &CancelToken) -> Result<usize, HttpError> {
        let mut bytes = Vec::new();
        let request = Request { method: "GET", url, headers: &[], body: Body::None, limit: LIMIT };
        http.send(request, abort.as_fd(), &mut |_, body| read_all(body, 1 << 24, &mut bytes))?;
        Ok(bytes.len())
    }

    #[test]
    fn requests_go_through_and_share_a_connection() {
        let (port, thread) = server("server.pem", |mut stream| {
            answer(&mut stream, 3, 3_000_000);
            true
        });
        let (http, abort) = (Http::trusting(trusting("ca.pem")), CancelToken::new().unwrap());
        for _ in 0..3 {
            assert_eq!(get(&http, &format!("https://localhost:{port}/x"), &abort).unwrap(), 3_000_000);
        }
        assert_eq!(thread.join().unwrap(), 1);
    }

    #[test]
    fn a_peer_that_is_somebody_else_gets_nothing() {
        let heard = |certificate: &str, trusted: &str| {
            let (port, thread) = server(certificate, |mut stream| {
                let mut byte = [0];
                assert!(!stream.read(&mut byte).is_ok_and(|n| n > 0), "it was spoken to");
                true
            });
            let http = Http::trusting(trusting(trusted));
            let error = get(&http, &format!("https://127.0.0.1:{port}/"), &CancelToken::new().unwrap()).unwrap_err();
            thread.join().unwrap();
            assert!(!error.sent);
            error.to_string()
        };
        let error = heard("server.pem", "other-ca.pem");
        assert!(error.contains("certificate") && error.contains("UnknownIssuer"), "{error}");
        let error = heard("elsewhere.pem", "ca.pem");
        assert!(error.contains("not valid for name"), "{error}");
    }

    #[test]
    fn websockets_go_through() {
        let (port, thread) = server("server.pem", |stream| {
            // The first one does not like the certificate.
            let Ok(mut socket) = tungstenite::accept(stream) else { return false };
            let text = socket.read().unwrap();
            socket.send(text).unwrap();
            let _ = socket.read();
            true
        });
        let url = format!("wss://127.0.0.1:{port}/hub/ws");
        let request = ws::Request { url: &url, headers: &[], limit: LIMIT, max_message: 1 << 20 };
        let abort = CancelToken::new().unwrap();
        let refused = ws::open_over(&request, abort.as_fd(), Some(&trusting("other-ca.pem"))).err();
        assert!(matches!(refused, Some(ws::WsError::Tls(why)) if why.contains("UnknownIssuer")));
        let mut socket = ws::open_over(&request, abort.as_fd(), Some(&trusting("ca.pem"))).unwrap();
        let long = "é".repeat(100_000);
        socket.send(&long).unwrap();
        let end = Instant::now() + LIMIT;
        loop {
            match socket.receive().unwrap() {
                Some(ws::Incoming::Text(text)) => break assert!(text == long),
                Some(other) => panic!("{other:?}"),
                None => assert!(Instant::now() < end, "nothing has come"),
            }
            socket.wait(&[], Some(LIMIT)).unwrap();
        }
        drop(socket);
        thread.join().unwrap();
    }

    #[test]
    fn a_peer_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let http = Http::trusting(trusting("ca.pem"));
        let abort = CancelToken::new().unwrap();
        let request = |limit| Request { method: "GET", url: &url, headers: &[], body: Body::None, limit };
        let error = http.send(request(Duration::from_millis(50)), abort.as_fd(), &mut |_, _| Ok(())).err().unwrap();
        assert!(matches!(error, HttpError { sent: false, kind: HttpErrorKind::TimedOut }), "{error}");
        let from_outside = abort.clone();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| http.send(request(LIMIT), abort.as_fd(), &mut |_, _| Ok(())).err().unwrap());
            // It is there once it has said hello.
            let (first, _) = listener.accept().unwrap();
            let (mut second, _) = listener.accept().unwrap();
            assert!(second.read(&mut [0; 16]).unwrap() > 0);
            from_outside.cancel(CancelReason::Shutdown);
            assert!(matches!(asking.join().unwrap().kind, HttpErrorKind::Aborted));
            drop(first);
        });
    }

    #[test]
    fn roots_are_the_named_the_machines_or_the_built_in() {
        let bundle = data("ca.pem");
        let bundle = bundle.to_str().unwrap();
        assert_eq!(roots(None, &["/nowhere", bundle]).unwrap().len(), 1);
        assert_eq!(roots(Some(PathBuf::new()), &[bundle]).unwrap().len(), 1);
        assert!(roots(None, &["/nowhere"]).unwrap().len() > 50);
        let missing = roots(Some("/nowhere".into()), &[bundle]).unwrap_err().to_string();
        assert!(missing.starts_with("SSL_CERT_FILE=/nowhere: "), "{missing}");
        let empty = roots(Some(data("server.key")), &[bundle]).unwrap_err().to_string();
        assert!(empty.ends_with("no certificate in it"), "{empty}");
        assert!(Tls::shared().is_ok());
    }
}
