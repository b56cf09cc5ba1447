//! The HTTP client under kube-rs: its layers for address, credential and headers, over a connector that asks
//! [`addresses::refused`] about every address a name resolves to. Without kube-rs's retry and trace layers.

use super::Options;
use super::config::{Access, ConfigError};
use crate::addresses;
use ::kube::client::{Body, ConfigExt as _};
use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{BoxError, Service, ServiceBuilder};

/// TCP keep-alive: a peer that vanished is noticed on an idle watch after about 45 s.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// An idle connection is dropped before common load balancers forget it.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// Builds the client.
pub(super) fn client(access: &Access, options: &Options) -> Result<::kube::Client, ConfigError> {
    // Two TLS providers without a choice make rustls panic; whoever comes first decides, and all choose this one.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    }
    let config = access.config();
    let mut tcp =
        HttpConnector::new_with_resolver(Guarded { allow_loopback: options.allow_loopback });
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(options.connect_timeout));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let bad = |e: ::kube::Error| ConfigError::Client(Box::new(e));
    let tls = config.rustls_https_connector_with_connector(tcp).map_err(bad)?;
    let http: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .build(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(bad)?)
        .layer(config.extra_headers_layer().map_err(bad)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(::kube::Client::new(service, config.default_namespace.clone()))
}

/// A name led to an address that must not be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{host} resolves to {address}: {why}")]
pub(super) struct RefusedAddress {
    host: String,
    address: std::net::IpAddr,
    why: &'static str,
}

#[derive(Clone)]
struct Guarded {
    allow_loopback: bool,
}

impl Service<Name> for Guarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let allow_loopback = self.allow_loopback;
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let refused = found
                .iter()
                .find_map(|a| addresses::refused(a.ip(), allow_loopback).map(|why| (a.ip(), why)));
            match refused {
                // One bad address spoils the name: its owner chooses which of them we would get.
                Some((address, why)) => Err(io::Error::other(RefusedAddress {
                    host: name.as_str().to_owned(),
                    address,
                    why,
                })),
                None => Ok(found.into_iter()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use std::str::FromStr as _;

    #[tokio::test]
    async fn a_name_that_leads_to_a_refused_address_is_not_connected_to() {
        let name = || Name::from_str("localhost").unwrap();
        let error = Guarded { allow_loopback: false }.call(name()).await.unwrap_err();
        assert!(error.to_string().contains("this machine"), "{error}");
        let found: Vec<_> = Guarded { allow_loopback: true }.call(name()).await.unwrap().collect();
        assert!(found.iter().all(|a| a.ip().is_loopback()) && !found.is_empty(), "{found:?}");
    }
}
