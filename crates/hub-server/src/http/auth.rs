use std::net::IpAddr;

use axum::extract::{FromRequestParts, Request};
use http::request::Parts;
use http::{HeaderMap, header};
use hub_core::Principal;

use super::{App, PeerAddress, Problem};
use crate::config::Config;

/// Who makes this request. Extracting it is the check.
pub(crate) struct Auth(pub(crate) Principal);

impl FromRequestParts<App> for Auth {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let key = bearer(&parts.headers).ok_or_else(Problem::unauthorized)?;
        let principal = app.hub.authenticate(key).await?;
        principal.map(Self).ok_or_else(Problem::unauthorized)
    }
}

/// The key in `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Whether somebody put a key where logs would keep it.
pub(super) fn has_key_in_query(query: &str) -> bool {
    query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let named = ["key", "token", "access_token", "api_key", "apikey", "authorization"];
        named.iter().any(|n| name.eq_ignore_ascii_case(n)) || value.starts_with("hub_") && value.len() > 40
    })
}

/// The client's address: behind trusted proxies the nearest address in `X-Forwarded-For` that is none of theirs.
pub(super) fn client_address(config: &Config, request: &Request) -> Option<IpAddr> {
    let peer = request.extensions().get::<PeerAddress>()?.0.ip().to_canonical();
    let forwarded = request.headers().get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok());
    let hops: Vec<IpAddr> =
        forwarded.flat_map(|line| line.split(',')).filter_map(|hop| hop.trim().parse().ok()).collect();
    Some(nearest_untrusted(config, peer, &hops))
}

fn nearest_untrusted(config: &Config, peer: IpAddr, hops: &[IpAddr]) -> IpAddr {
    let mut client = peer;
    for hop in hops.iter().rev() {
        if !is_trusted(config, client) {
            break;
        }
        client = hop.to_canonical();
    }
    client
}

fn is_trusted(config: &Config, address: IpAddr) -> bool {
    config.trusted_proxies.iter().any(|network| network.contains(&address))
}

/// Whether a browser on the page of this `Origin` may connect: listed, or from the very host it connects to.
pub(crate) fn origin_allowed(config: &Config, request: &Request) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if !config.allowed_origins.is_empty() {
        return config.allowed_origins.iter().any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin));
    }
    let host = host_of(config, request);
    let of_origin = origin.split_once("://").map(|(_, host)| host);
    matches!((of_origin, host), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b))
}

/// The answer to a page of another origin.
pub(crate) fn wrong_origin() -> Problem {
    let message = "this origin may not connect; see --allowed-origins";
    Problem::new(http::StatusCode::FORBIDDEN, "ACCESS_DENIED", message)
}

/// Where the client has found this server, base path included, without a slash at the end.
pub(crate) fn public_url(config: &Config, request: &Request) -> String {
    let forwarded = request.headers().get("x-forwarded-proto").and_then(|v| v.to_str().ok());
    let forwarded = forwarded.filter(|proto| is_proxied(config, request) && ["http", "https"].contains(proto));
    let scheme = forwarded.unwrap_or(if config.tls.is_some() { "https" } else { "http" });
    // Names and addresses only: the text goes into a header.
    let plain = |host: &&str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    let listen = config.listen.to_string();
    let host = host_of(config, request).filter(plain).unwrap_or(&listen);
    format!("{scheme}://{host}{}", config.base_path)
}

/// The host that the client has asked for.
fn host_of<'a>(config: &Config, request: &'a Request) -> Option<&'a str> {
    let name = |header: &str| request.headers().get(header).and_then(|v| v.to_str().ok());
    let host = if is_proxied(config, request) { name("x-forwarded-host").or(name("host")) } else { name("host") };
    host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str))
}

fn is_proxied(config: &Config, request: &Request) -> bool {
    let peer = request.extensions().get::<PeerAddress>().map(|a| a.0.ip().to_canonical());
    peer.is_some_and(|peer| is_trusted(config, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_the_query_are_found() {
        assert!(has_key_in_query("a=1&key=x"));
        assert!(has_key_in_query("Access_Token=x"));
        assert!(has_key_in_query(&format!("q=hub_{}", "a".repeat(50))));
        assert!(!has_key_in_query("q=keyboard&topics=hub_x"));
    }
}
