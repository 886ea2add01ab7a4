use super::*;

fn text(page: &Page) -> &'static str {
    std::str::from_utf8(page.bytes()).unwrap()
}

fn page(path: &str) -> &'static Page {
    PAGES.iter().find(|page| page.path == path).unwrap_or_else(|| panic!("there is no {path}"))
}

fn asking(tag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(tag).unwrap());
    headers
}

#[test]
fn an_order_that_holds_already_is_answered_so() {
    for page in PAGES {
        let fresh = page.answer(&HeaderMap::new());
        assert_eq!(fresh.status(), StatusCode::OK, "{}", page.path);
        let tag = fresh.headers()[header::ETAG].to_str().unwrap().to_owned();
        for (asked, known) in [
            (tag.clone(), true),
            (format!("W/{tag}"), true),
            (format!("\"other\", {tag}"), true),
            ("*".to_owned(), true),
            ("\"other\"".to_owned(), false),
        ] {
            let answer = page.answer(&asking(&asked));
            let wanted = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
            assert_eq!(answer.status(), wanted, "{} {asked}", page.path);
            assert_eq!(answer.headers()[header::ETAG], *tag);
            assert!(answer.headers().contains_key("content-security-policy"));
        }
    }
}

#[test]
fn no_page_holds_a_script_or_a_style_of_its_own() {
    for page in PAGES.iter().filter(|page| page.media_type == HTML) {
        let text = text(page);
        assert!(!text.contains(" style=") && !text.contains("<style"), "{}: a style", page.path);
        for script in text.split("<script").skip(1) {
            assert!(script.starts_with(' ') && script.contains(" src=\""), "{}: <script{script}", page.path);
        }
        let handlers = text.split_whitespace().filter(|word| word.starts_with("on") && word.contains("=\""));
        assert_eq!(handlers.collect::<Vec<_>>(), Vec::<&str>::new(), "{}", page.path);
    }
}

#[test]
fn everything_a_page_asks_for_is_there() {
    for page in PAGES.iter().filter(|page| page.media_type == HTML || page.media_type == JS) {
        let directory = &page.path[..=page.path.rfind('/').unwrap()];
        let marks: &[&str] =
            if page.media_type == HTML { &[" src=\"", " href=\""] } else { &[" from './", " from '../"] };
        for mark in marks {
            for found in text(page).split(mark).skip(1) {
                let name = found.split(['"', '\'']).next().unwrap();
                if name.starts_with('#') || name == "openapi.json" {
                    continue;
                }
                let path = match *mark {
                    " from '../" => format!("/{name}"),
                    _ => format!("{directory}{}", name.trim_start_matches("./")),
                };
                let path = path.replace("/demo/../", "/");
                assert!(PAGES.iter().any(|page| page.path == path), "{}: {name} is not served", page.path);
            }
        }
    }
}

#[test]
fn only_the_stage_runs_what_comes_from_elsewhere_and_has_no_origin() {
    let policy =
        |path: &str| page(path).answer(&HeaderMap::new()).headers()["content-security-policy"].clone();
    for path in ["/", "/demo"] {
        let policy = policy(path);
        let policy = policy.to_str().unwrap();
        assert!(policy.contains("script-src 'self';") && policy.contains("style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
    let stage = policy("/demo/stage");
    let stage = stage.to_str().unwrap();
    assert!(stage.starts_with("sandbox ") && !stage.contains("allow-same-origin"), "{stage}");
}
