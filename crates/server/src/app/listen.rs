//! The socket: plain HTTP on loopback, TLS anywhere.

use super::StartError;
use crate::config::Config;
use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use std::net::{SocketAddr, TcpListener};
use tokio::task::JoinHandle;

/// Binds and serves; returns the address with the port that was chosen.
pub async fn listen(
    config: &Config,
    router: Router,
) -> Result<(SocketAddr, JoinHandle<()>), StartError> {
    let io = |source| StartError::Io {
        what: format!(
            "{} cannot be listened on: is another server running there?",
            config.listen
        ),
        source,
    };
    let listener = TcpListener::bind(config.listen).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let task = if let Some(tls) = &config.tls {
        let tls = RustlsConfig::from_pem_file(&tls.cert, &tls.key)
            .await
            .map_err(StartError::Tls)?;
        let server = axum_server::from_tcp_rustls(listener, tls).map_err(io)?;
        tokio::spawn(async move { report(server.serve(service).await) })
    } else {
        let server = axum_server::from_tcp(listener).map_err(io)?;
        tokio::spawn(async move { report(server.serve(service).await) })
    };
    Ok((address, task))
}

fn report(ended: std::io::Result<()>) {
    if let Err(error) = ended {
        tracing::error!(error = crate::sync::chain(&error), "the listener ended");
    }
}
