//! The connection to the service: its address, each step to reach it, and what responds.

use std::net::SocketAddr;

use gateway_events::api::{Code, NodesQuery};
use gateway_events::client::api::{Api, ApiError};
use gateway_events::client::probe;
use gateway_events::client::tls::{self, Trust};
use gateway_events::clock::Timestamp;

use super::{Report, Verdict, expires, first_line};

/// A client without a token, if the address and the CA file can be used.
pub(super) fn api(report: &mut Report, address: &str, trust: &Trust) -> Option<Api> {
    match Api::new(address, None, trust) {
        Ok(api) => {
            report.ok("address", api.base());
            return Some(api);
        }
        Err(error @ ApiError::Trust(_)) => {
            report.ok("address", address);
            let advice = "check --ca-file, GATEWAY_EVENTS_CA_FILE and the context; the certificate of a service that has made its own is DATA_DIR/certificate.pem";
            report.fail("ca-file", error, advice);
        }
        Err(error) => {
            report.fail("address", error, "check --url, GATEWAY_EVENTS_URL and the context");
        }
    }
    None
}

/// Checks the way to the service. False if it can't be reached.
pub(super) async fn reach(report: &mut Report, api: &Api, trust: &Trust) -> bool {
    let url = api.base();
    let addresses = match probe::resolve(url).await {
        Ok(addresses) => addresses,
        Err(why) => {
            report.fail("dns", why, "check the host name in --url, and this machine's resolver");
            return false;
        }
    };
    let shown: Vec<String> = addresses.iter().map(|it| it.ip().to_string()).collect();
    report.ok("dns", shown.join(", "));
    let stream = match probe::connect(&addresses).await {
        Ok((address, stream)) => {
            report.ok("tcp", format_args!("connected to {address}"));
            stream
        }
        Err(why) => {
            let advice = "check whether the service runs, whether --url has its port, and firewalls in between";
            report.fail("tcp", why, advice);
            return false;
        }
    };
    if url.scheme() == "http" {
        // A server that serves one connection at a time would wait for this one.
        drop(stream);
        return plaintext(report, api, &addresses).await;
    }
    match probe::handshake(url, stream, trust).await {
        Ok(expiry) => {
            let insecure = matches!(trust, Trust::Insecure);
            let advice = "pass its certificate by --ca-file instead of --insecure";
            let found = if insecure { "any certificate is accepted" } else { "trusted" };
            let verdict = if insecure { Verdict::Warn } else { Verdict::Ok };
            report.add("tls", verdict, found, Some(advice));
            certificate(report, expiry);
            true
        }
        Err(why) => {
            let advice =
                tls::advice(&why).unwrap_or("check whether --url is the service's address");
            let is_unknown = ["UnknownIssuer", "BadSignature"].iter().any(|it| why.contains(it));
            match trust {
                Trust::CaFile(path) if is_unknown => {
                    let found = format_args!(
                        "the server's certificate was not issued by one in the CA file {} ({why})",
                        path.display()
                    );
                    report.fail("tls", found, advice);
                }
                _ => report.fail("tls", why, advice),
            }
            // What is wrong may be its age, which only an untrusting handshake shows.
            if let Ok((_, stream)) = probe::connect(&addresses).await
                && let Ok(expiry) = probe::handshake(url, stream, &Trust::Insecure).await
            {
                certificate(report, expiry);
            }
            false
        }
    }
}

/// Checks that the server accepts requests without TLS. False if it does not.
async fn plaintext(report: &mut Report, api: &Api, addresses: &[SocketAddr]) -> bool {
    if let Err(error) = api.root("/livez").await {
        // A server that expects TLS closes the connection, or refuses the request.
        let uses_tls = match probe::connect(addresses).await {
            Ok((_, stream)) => probe::handshake(api.base(), stream, &Trust::Insecure).await.is_ok(),
            Err(_) => false,
        };
        if uses_tls {
            let found = "the server uses TLS, but the address begins with http://";
            report.fail("tls", found, "use https:// in the address");
            return false;
        }
        if error.status().is_none() {
            let advice = "check whether --url is the service's address";
            report.fail("http", first_line(&error), advice);
            return false;
        }
    }
    let advice = "use https://, unless the service is on this machine";
    report.add("tls", Verdict::Warn, "not encrypted", Some(advice));
    true
}

/// Checks that the server is gateway-events, before it gets a token. Without one, it refuses a request
/// with a code of its own.
pub(super) async fn identify(report: &mut Report, api: &Api) -> bool {
    let found = match api.nodes(&NodesQuery { limit: Some(1) }).await {
        Err(ApiError::Refused(problem)) if problem.code == Code::Unauthorized.as_str() => {
            report.ok("service", "gateway-events");
            return true;
        }
        Err(ApiError::Refused(problem)) => format!(
            "the server is not gateway-events: its response to a request of the API has the status {}",
            problem.status
        ),
        Ok(_) | Err(ApiError::Unreadable { .. }) => {
            "the server is not gateway-events: it responds to a request of the API without a token"
                .to_owned()
        }
        Err(error) => first_line(&error),
    };
    let advice = "check whether --url is the address of gateway-events, with its port, and whether a proxy in between forwards /api/internal/v1";
    report.fail("service", found, advice);
    false
}

fn certificate(report: &mut Report, expiry: Option<Timestamp>) {
    let Some(expiry) = expiry else {
        report.add(
            "certificate",
            Verdict::Warn,
            "it can't be read",
            Some("check the service's log"),
        );
        return;
    };
    let (verdict, found) = expires(expiry);
    report.add("certificate", verdict, found, Some("renew the service's certificate"));
}
