//! A client and a server of rustls, on two threads that are connected by a pair of sockets. Waits until it
//! reads a line, then `--connections` times: the client sends the `--up` sizes, each in calls of its own, the
//! server then the `--down` sizes; both report what they moved. Calls take turns between one piece and
//! several (`write_vectored`).
//!
//! There are no certificates: who signs signs nothing, and who verifies believes everything.

use std::error::Error;
use std::io::{self, BufRead as _, IoSlice, Read, Write};
use std::ops::DerefMut;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::{env, process, thread};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, DigitallySignedStruct, ServerConfig, ServerConnection,
    SideData, SignatureAlgorithm, SignatureScheme, StreamOwned,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

#[derive(Debug)]
struct Nobody;

impl Signer for Nobody {
    fn sign(&self, _: &[u8]) -> std::result::Result<Vec<u8>, rustls::Error> {
        Ok(vec![0; 64])
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

impl SigningKey for Nobody {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(Nobody))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificate = CertificateDer::from(b"none".to_vec());
        Some(Arc::new(CertifiedKey::new(vec![certificate], Arc::new(Nobody))))
    }
}

impl ServerCertVerifier for Nobody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME]
    }
}

fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "ring")]
    return Arc::new(rustls::crypto::ring::default_provider());
    #[cfg(not(feature = "ring"))]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
}

/// Bytes that were moved, counted and hashed.
struct Tally {
    bytes: usize,
    hash: Box<dyn rustls::crypto::hash::Context>,
}

impl Tally {
    fn new(provider: &CryptoProvider) -> Result<Self> {
        let suites = provider.cipher_suites.iter().filter_map(|suite| suite.tls13());
        let mut sha256 =
            suites.map(|suite| suite.common.hash_provider).filter(|hash| hash.output_len() == 32);
        Ok(Self { bytes: 0, hash: sha256.next().ok_or("no SHA-256")?.start() })
    }

    fn add(&mut self, data: &[u8]) {
        self.bytes += data.len();
        self.hash.update(data);
    }

    fn json(self) -> String {
        let digest = self.hash.finish();
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{{\"bytes\":{},\"sha256\":\"{digest}\"}}", self.bytes)
    }
}

/// Sends in one piece, or in pieces whose lengths differ, in turns.
fn send<C, S>(
    stream: &mut StreamOwned<C, UnixStream>,
    tally: &mut Tally,
    sizes: &[usize],
    mut seed: u64,
) -> Result<()>
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    for (number, size) in sizes.iter().enumerate() {
        let mut data = vec![0; *size];
        for byte in &mut data {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (seed >> 56) as u8;
        }
        tally.add(&data);
        let mut rest = &data[..];
        while !rest.is_empty() {
            let done = if number % 2 == 0 {
                stream.write(rest)?
            } else {
                let (first, second) = rest.split_at(rest.len() / 3);
                let (second, third) = second.split_at(second.len() / 2);
                // The stream itself would write the first piece only.
                stream.conn.writer().write_vectored(&[first, &[], second, third].map(IoSlice::new))?
            };
            stream.flush()?;
            rest = &rest[done..];
        }
    }
    Ok(())
}

fn receive(stream: &mut impl Read, tally: &mut Tally, sizes: &[usize]) -> Result<()> {
    let mut left: usize = sizes.iter().sum();
    let mut data = vec![0; 20_000];
    while left > 0 {
        let room = data.len().min(left);
        let count = stream.read(&mut data[..room])?;
        if count == 0 {
            return Err("the end came early".into());
        }
        tally.add(&data[..count]);
        left -= count;
    }
    Ok(())
}

fn report(side: &str, number: usize, received: Tally, sent: Tally) {
    println!(
        "{{\"side\":\"{side}\",\"vpid\":{},\"connection\":{number},\"received\":{},\"sent\":{}}}",
        process::id(),
        received.json(),
        sent.json()
    );
}

fn client(socket: UnixStream, number: usize, up: &[usize], down: &[usize]) -> Result<()> {
    let provider = provider();
    let (mut received, mut sent) = (Tally::new(&provider)?, Tally::new(&provider)?);
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Nobody)).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), "test".try_into()?)?;
    let mut stream = StreamOwned::new(connection, socket);
    send(&mut stream, &mut sent, up, 3)?;
    receive(&mut stream, &mut received, down)?;
    report("client", number, received, sent);
    Ok(())
}

fn server(socket: UnixStream, number: usize, up: &[usize], down: &[usize]) -> Result<()> {
    let provider = provider();
    let (mut received, mut sent) = (Tally::new(&provider)?, Tally::new(&provider)?);
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_no_client_auth().with_cert_resolver(Arc::new(Nobody));
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config))?, socket);
    receive(&mut stream, &mut received, up)?;
    send(&mut stream, &mut sent, down, 5)?;
    report("server", number, received, sent);
    Ok(())
}

/// The value of an option, a list of numbers.
fn option(name: &str) -> Vec<usize> {
    let value = env::args().skip_while(|argument| argument != name).nth(1).unwrap_or_default();
    value.split(',').filter_map(|size| size.parse().ok()).collect()
}

fn main() -> Result<()> {
    let (up, down) = (option("--up"), option("--down"));
    println!("ready");
    io::stdin().lock().read_line(&mut String::new())?;
    for number in 1..=option("--connections").first().copied().unwrap_or(1) {
        let (near, far) = UnixStream::pair()?;
        thread::scope(|scope| {
            let server = scope.spawn(|| server(far, number, &up, &down));
            client(near, number, &up, &down)?;
            server.join().map_err(|_| "the server panicked")?
        })?;
    }
    Ok(())
}
