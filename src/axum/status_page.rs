//! The page for people that `GET /status` answers a browser with.
//!
//! It asks for the same address again, as JSON, once a second, and writes what it gets into the text of
//! its elements: no value is ever part of the markup. Polling rather than an event stream, because it
//! passes through every proxy, costs nothing while nobody looks, and does not hold up a graceful shutdown.

use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// Its hashes are those of what stands between the tags: the test
/// `the_page_runs_its_own_script_and_style_and_nothing_else` says what they have to be.
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; \
    style-src 'sha256-JVmNGn9q4qwB8lh5KzGRG6wl+ghBS8e3wF16UF5QrG8='; \
    script-src 'sha256-K+fiOdQ2PLX9Tyx/GPfNyHxACAgU07fDiso+jabHYes='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const START: &str = "<!doctype html>\n<html lang=\"en\"";

const REST: &str = concat!(
    ">\n<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<meta name=\"color-scheme\" content=\"light dark\">\n",
    "<title>redis-guard</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>",
    include_str!("status_page/style.css"),
    "</style>\n",
    include_str!("status_page/body.html"),
    "<script type=\"module\">",
    include_str!("status_page/script.js"),
    "</script>\n</html>\n"
);

/// What both answers of `GET /status` say: which of them it is depends on who asks, it is true for this
/// moment only, and it is what it says it is.
pub(super) const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (VARY, HeaderValue::from_static("accept")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

pub(super) fn page(overrides: bool) -> Response {
    let html = [START, if overrides { " data-overrides" } else { "" }, REST].concat();
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (HEADERS, headers, html).into_response()
}

/// Whether the page is wanted, and not the JSON: where HTML is named, which browsers do and scripts do
/// not, and JSON is not named as well with the same preference. `?format=json` is for people who want
/// to see the JSON in a browser.
pub(super) fn is_wanted(headers: &HeaderMap, uri: &Uri) -> bool {
    let ranges = || {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).filter_map(range)
    };
    let of = |wanted: &str| {
        ranges().find(|(range, _)| range.eq_ignore_ascii_case(wanted)).map(|(_, quality)| quality)
    };
    let Some(html) = of("text/html").filter(|html| *html > 0.0) else { return false };
    let is_preferred = match of("application/json") {
        Some(json) => html > json,
        None => html >= of("application/*").or(of("*/*")).unwrap_or(0.0),
    };
    let asks_for_json = uri.query().unwrap_or("").split('&').any(|pair| pair == "format=json");
    is_preferred && !asks_for_json
}

/// A media range of `Accept`, and its weight.
fn range(range: &str) -> Option<(&str, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let name = parts.next()?;
    let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    Some((name, weight.map_or(Some(1.0), |weight| weight.parse().ok())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_page(accept: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        is_wanted(&headers, &Uri::from_static("/status"))
    }

    #[test]
    fn whoever_names_html_gets_the_page() {
        for accept in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
            "text/html",
            "TEXT/HTML; charset=utf-8",
            "text/html, */*",
            "application/json;q=0.5, text/html",
            "text/html;q=0.2, */*;q=0.2",
        ] {
            assert!(is_page(accept), "{accept}");
        }
    }

    #[test]
    fn everybody_else_gets_json() {
        for accept in [
            "",
            "*/*",
            "application/json",
            "application/json, text/plain, */*",
            "application/json, text/html",
            "text/html;q=0",
            "text/html;q=0.1, */*",
            "text/html;q=0.4, application/*;q=0.5",
            "text/html;q=much",
            "text/*",
            "text/htmlx",
            ";;,,q=1",
        ] {
            assert!(!is_page(accept), "{accept}");
        }
    }

    #[test]
    fn several_headers_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT, HeaderValue::from_static("image/png"));
        headers.append(ACCEPT, HeaderValue::from_static("text/html"));
        assert!(is_wanted(&headers, &Uri::from_static("/status")));

        headers.append(ACCEPT, HeaderValue::from_static("application/json"));
        assert!(!is_wanted(&headers, &Uri::from_static("/status")));
    }

    #[test]
    fn a_browser_can_ask_for_json() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/html"));
        for (uri, page) in
            [("/status?format=json", false), ("/s?a=b&format=json", false), ("/s?a=b", true)]
        {
            assert_eq!(is_wanted(&headers, &Uri::from_static(uri)), page, "{uri}");
        }
    }
}
