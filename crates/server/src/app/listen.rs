//! The socket: plain HTTP on loopback, TLS anywhere.

use super::StartError;
use crate::config::Config;
use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use hyper_util::rt::TokioTimer;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Headers that take longer come from a broken or a hostile client; bodies have their own limit.
const HEADERS_LIMIT: Duration = Duration::from_secs(30);

/// Binds and serves; returns the address with the port that was chosen.
pub async fn listen(
    config: &Config,
    router: Router,
) -> Result<(SocketAddr, JoinHandle<()>), StartError> {
    let io = |source| StartError::Io {
        what: format!("{} cannot be listened on: is another server running there?", config.listen),
        source,
    };
    let listener = TcpListener::bind(config.listen).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let task = if let Some(tls) = &config.tls {
        let tls =
            RustlsConfig::from_pem_file(&tls.cert, &tls.key).await.map_err(StartError::Tls)?;
        let mut server = axum_server::from_tcp_rustls(listener, tls).map_err(io)?;
        limited(server.http_builder());
        tokio::spawn(async move { report(server.serve(service).await) })
    } else {
        let mut server = axum_server::from_tcp(listener).map_err(io)?;
        limited(server.http_builder());
        tokio::spawn(async move { report(server.serve(service).await) })
    };
    Ok((address, task))
}

fn limited(builder: &mut hyper_util::server::conn::auto::Builder<hyper_util::rt::TokioExecutor>) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_LIMIT);
}

fn report(ended: std::io::Result<()>) {
    if let Err(error) = ended {
        tracing::error!(error = crate::sync::chain(&error), "the listener ended");
    }
}
