//! Keeps other people's web pages from sending what only our own may send.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Uri};

/// Whether a browser sent this request on behalf of a page of another origin. The rule is Go's
/// `http.CrossOriginProtection`: `Sec-Fetch-Site` settles it; browsers that are old, or talk to us without
/// TLS, do not send it, but `Origin` with every POST. Without either it is not a browser, and whoever
/// can make somebody run a program does not need this route.
pub(super) fn is_foreign(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter().peekable();
    if sites.peek().is_some() {
        return sites.any(|site| site != "same-origin" && site != "none");
    }
    // In HTTP/2 it is part of the URI.
    let host = headers.get(HOST).map(|host| host.as_bytes());
    let host = host.or(uri.authority().map(|authority| authority.as_str().as_bytes()));
    headers.get_all(ORIGIN).iter().any(|origin| {
        let origin = origin.as_bytes();
        let of = |scheme: &[u8]| origin.strip_prefix(scheme);
        // The scheme is not compared: behind a proxy that ends TLS, ours is not the browser's.
        let authority = of(b"https://").or_else(|| of(b"http://"));
        !authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(headers: &[(&'static str, &str)], uri: &'static str) -> bool {
        let headers =
            headers.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
        is_foreign(&headers.collect(), &Uri::from_static(uri))
    }

    #[test]
    fn a_program_is_not_a_browser() {
        assert!(!is_refused(&[], "/"));
        assert!(!is_refused(&[("host", "10.0.0.1:8081")], "/"));
    }

    #[test]
    fn sec_fetch_site_settles_it() {
        for (site, refused) in [
            ("same-origin", false),
            ("none", false),
            ("same-site", true),
            ("cross-site", true),
            ("whatever-comes-next", true),
        ] {
            // An `Origin` that does not fit is that of a page behind a proxy that sets `Host`.
            let headers =
                [("sec-fetch-site", site), ("host", "inside"), ("origin", "https://outside")];
            assert_eq!(is_refused(&headers, "/"), refused, "{site}");
        }
    }

    #[test]
    fn without_it_the_origin_has_to_be_ours() {
        for (origin, refused) in [
            ("http://10.0.0.1:8081", false),
            ("https://10.0.0.1:8081", false),
            ("http://10.0.0.1", true),
            ("http://10.0.0.1:8081.evil.example", true),
            ("http://evil.example", true),
            ("null", true),
            ("10.0.0.1:8081", true),
            ("", true),
        ] {
            let headers = [("host", "10.0.0.1:8081"), ("origin", origin)];
            assert_eq!(is_refused(&headers, "/"), refused, "{origin}");
        }
        assert!(is_refused(&[("origin", "http://evil.example")], "/"), "no host");
    }

    #[test]
    fn in_http2_the_host_is_in_the_uri() {
        let origin = [("origin", "https://guard.Example")];
        assert!(!is_refused(&origin, "https://guard.example/breaker/open"));
        assert!(is_refused(&origin, "https://other.example/breaker/open"));
    }

    #[test]
    fn nothing_is_gained_by_sending_a_header_twice() {
        assert!(is_refused(
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            "/"
        ));
        let origins = [("host", "a"), ("origin", "http://a"), ("origin", "http://b")];
        assert!(is_refused(&origins, "/"));
    }
}
