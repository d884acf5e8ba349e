//! One way to ask a server for something: TLS with the system's certificates, bounded waits, no shared state.
//!
//! The TLS library gets its cryptography per connection pool instead of through the process-wide default, which the bus may want to set
//! for itself. Certificates are those of the system or of `SSL_CERT_FILE`, so a company's own authority works as it does for other
//! programs; `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` count as well.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

/// Longest time to reach a server, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time until a server begins to answer; mirrors that fetch a file themselves first are slow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest silence within an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Most redirects followed for one file.
const MAX_REDIRECTS: u32 = 10;

/// An address, and the credentials the user's own configuration has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Without credentials.
    pub(crate) url: String,
    /// `user:password`, not printed.
    pub(crate) credentials: Option<Secret>,
}

/// Text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Address {
    /// Takes the credentials out of an address.
    pub(crate) fn new(url: &str) -> Address {
        let (url, credentials) = super::index::split_credentials(url);
        Address {
            url,
            credentials: credentials.map(Secret),
        }
    }

    /// Another address, with these credentials if it is on the same host.
    pub(crate) fn related(&self, url: &str) -> Address {
        let mut other = Address::new(url);
        if other.credentials.is_none() && origin(&other.url) == origin(&self.url) {
            other.credentials = self.credentials.clone();
        }
        other
    }
}

fn origin(url: &str) -> Option<&str> {
    let (scheme, after) = url.split_once("://")?;
    let length = after.find(['/', '?', '#']).unwrap_or(after.len());
    url.get(..scheme.len() + 3 + length)
}

/// A pool of connections. Statuses are answers, not errors.
pub(crate) fn agent() -> ureq::Agent {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    ureq::Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .user_agent(concat!("llmasos/", env!("CARGO_PKG_VERSION")))
        // Packed transfer would make byte ranges and sizes mean something else.
        .accept_encoding("identity")
        .max_redirects(MAX_REDIRECTS)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .build()
        .new_agent()
}

/// `GET` with extra headers.
pub(crate) fn get(
    agent: &ureq::Agent,
    address: &Address,
    headers: &[(&str, &str)],
) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    let mut request = agent.get(&address.url);
    if let Some(Secret(credentials)) = &address.credentials {
        let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
        request = request.header("Authorization", format!("Basic {encoded}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.call()
}
