//! Where a request comes from, behind a proxy or not.

use std::net::IpAddr;

use poem::{Request, http::HeaderMap};

/// The address of who calls, as far as it is known.
pub(crate) fn address(request: &Request) -> Option<IpAddr> {
    let peer = request.remote_addr().as_socket_addr()?.ip().to_canonical();
    Some(behind_proxy(peer, request.headers()))
}

/// A proxy on this machine says in X-Forwarded-For whom it speaks for, and its last word counts; from elsewhere that header
/// is anybody's claim.
fn behind_proxy(peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !peer.is_loopback() {
        return peer;
    }
    let said = headers.get_all("x-forwarded-for").iter().next_back().and_then(|v| v.to_str().ok());
    said.and_then(|list| list.rsplit(',').next()?.trim().parse().ok()).unwrap_or(peer)
}

/// Whether the browser speaks TLS with us or with a proxy in front of us.
pub(crate) fn is_https(request: &Request) -> bool {
    request.scheme() == &poem::http::uri::Scheme::HTTPS
        || request.header("x-forwarded-proto").is_some_and(|p| p.eq_ignore_ascii_case("https"))
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let headers = request.headers().get_all("cookie").iter().filter_map(|v| v.to_str().ok());
    headers.flat_map(|h| h.split(';')).find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str, forwarded: &'static str) -> String {
        let headers =
            [("x-forwarded-for", forwarded)].map(|(k, v)| (k.parse().expect("a name"), v.parse().expect("a value")));
        behind_proxy(peer.parse().expect("an address"), &HeaderMap::from_iter(headers)).to_string()
    }

    #[test]
    fn only_a_proxy_on_this_machine_is_believed_and_only_its_last_word() {
        assert_eq!(from("127.0.0.1", "198.51.100.1, 203.0.113.5"), "203.0.113.5");
        assert_eq!(from("192.0.2.1", "203.0.113.5"), "192.0.2.1");
        assert_eq!(from("::1", "nonsense"), "::1");
    }

    #[test]
    fn a_cookie_is_found_among_others_by_its_whole_name() {
        let request =
            Request::builder().header("cookie", "a=1; driftless_refresh_x=no; driftless_refresh=yes").finish();
        assert_eq!(cookie(&request, "driftless_refresh"), Some("yes"));
        assert_eq!(cookie(&request, "driftless"), None);
    }
}
