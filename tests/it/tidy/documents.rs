//! Rules of the documentation: links and anchors lead somewhere, SUMMARY.md is complete and of the form that mdBook reads, and
//! what pages say exists (tests, problem codes, exit reasons, Redis keys, metrics, flags). Diagrams are parsed by `tests/documents`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use model::{EventKind, ExitReason, SpawnState};

use super::{files, read, root, sources};

/// Markdown files, with their text.
fn documents() -> Vec<(String, String)> {
    let files = files().into_iter().filter(|(name, _)| name.ends_with(".md"));
    files.map(|(name, path)| (name, fs::read_to_string(path).unwrap())).collect()
}

/// The pages below `docs/`.
fn pages() -> Vec<(String, String)> {
    documents().into_iter().filter(|(name, _)| name.starts_with("docs/")).collect()
}

/// What users and operators read.
fn references() -> Vec<(String, String)> {
    let is_read = |name: &str| {
        name == "README.md"
            || name == "deploy/README.md"
            || (name.starts_with("docs/") && !name.starts_with("docs/internals/"))
    };
    documents().into_iter().filter(|(name, _)| is_read(name)).collect()
}

/// The lines outside fenced blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// What is between backticks in prose.
fn code(text: &str) -> Vec<&str> {
    prose(text).flat_map(|(_, line)| line.split('`').skip(1).step_by(2)).collect()
}

/// The first word of each row of a table, without its backticks, separated by commas where there are several.
fn first_column(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    rows.flat_map(|cell| cell.split(", "))
        .map(|word| word.trim_matches(|c| c == '`' || c == ' ').to_owned())
        .collect()
}

/// A section of a page, without its heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    rest.split("\n## ").next().unwrap()
}

/// The anchors of a page's headings, as they are linked to: lower case, without punctuation and the targets of links, with
/// hyphens for spaces; the second of the same name ends with `-1`.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter_map(|(_, line)| {
        let depth = line.len() - line.trim_start_matches('#').len();
        (1..=6).contains(&depth).then(|| line[depth..].strip_prefix(' ')).flatten()
    });
    let mut found = BTreeSet::new();
    for heading in headings {
        let mut words = String::new();
        for (n, part) in heading.split("](").enumerate() {
            words += if n == 0 { part } else { part.split_once(')').map_or("", |(_, rest)| rest) };
        }
        let kept = words.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let count = seen.entry(anchor.clone()).or_default();
        found.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
        *count += 1;
    }
    found
}

#[test]
fn anchors_are_those_that_a_browser_goes_to() {
    let text = "# A `spawn`, hop by hop\n```sh\n# no heading\n```\n## [Redis](x.md): away\n## Limits\n## Limits\n#tag\n";
    let want = ["a-spawn-hop-by-hop", "redis-away", "limits", "limits-1"];
    assert_eq!(anchors(text), want.map(str::to_owned).into());
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let (mut bad, mut count) = (Vec::new(), 0);
    for (name, text) in documents() {
        let here = root().join(&name);
        for (number, line) in prose(&text) {
            // What is in backticks is shown and not followed.
            let shown: String = line.split('`').step_by(2).collect();
            for link in shown.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = if path.is_empty() { here.clone() } else { here.parent().unwrap().join(path) };
                let leads = target.exists()
                    && (anchor.is_empty()
                        || fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor)));
                if !leads {
                    bad.push(format!("{name}:{number}: {link}"));
                }
                count += 1;
            }
        }
    }
    assert_eq!(bad, Vec::<String>::new());
    assert!(count > 100, "{count}");
}

/// The links of SUMMARY.md, from the root.
fn chapters() -> Vec<String> {
    let text = read("docs/SUMMARY.md");
    let links = text.lines().filter_map(|line| line.split_once("](")?.1.strip_suffix(')'));
    links.map(|link| link.strip_prefix("../").map_or_else(|| format!("docs/{link}"), str::to_owned)).collect()
}

#[test]
fn the_summary_has_every_page_once() {
    let chapters = chapters();
    let listed: BTreeSet<&String> = chapters.iter().collect();
    assert_eq!(listed.len(), chapters.len(), "a page is there twice: {chapters:?}");
    let all: BTreeSet<String> = documents().into_iter().map(|(name, _)| name).collect();
    // What is in a package is read where the package is.
    let is_in_a_package = |name: &str| name.starts_with("crates/frontdoor/pages/client/");
    let missing = all.iter().filter(|name| *name != "docs/SUMMARY.md" && !is_in_a_package(name));
    let missing = missing.filter(|name| !listed.contains(name));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new());
    let gone = chapters.iter().filter(|name| !all.contains(*name));
    assert_eq!(gone.collect::<Vec<_>>(), Vec::<&String>::new());
}

/// A title, chapters before the parts, then parts with lists whose items are indented by two spaces a level.
#[test]
fn the_summary_is_of_the_form_that_mdbook_reads() {
    let text = read("docs/SUMMARY.md");
    let mut lines = text.lines().filter(|line| !line.is_empty());
    assert_eq!(lines.next(), Some("# Summary"));
    let (mut parts, mut depth) = (0, 0);
    for line in lines {
        let item = line.trim_start();
        let level = (line.len() - item.len()) / 2;
        let is_link = |text: &str| text.starts_with('[') && text.contains("](") && text.ends_with(')');
        if line.starts_with("# ") {
            parts += 1;
            depth = 0;
        } else if parts == 0 {
            assert!(is_link(line), "before the first part there are plain links: {line}");
        } else {
            assert!(item.strip_prefix("- ").is_some_and(is_link), "{line}");
            assert!((line.len() - item.len()).is_multiple_of(2) && level <= depth + 1, "{line}");
            depth = level;
        }
    }
    assert_eq!(parts, 3, "users, operators, contributors");
}

/// Paths are given from the root, from `crates/`, or with as much of their end as is needed.
#[test]
fn files_that_documents_name_exist() {
    let all: Vec<String> = files().into_iter().map(|(name, _)| format!("/{name}")).collect();
    let is_path = |word: &str| {
        let roots = ["crates/", "tests/", "docs/", "deploy/", "proto/"];
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        plain && (word.ends_with(".rs") || roots.iter().any(|root| word.starts_with(root) && word != *root))
    };
    let (mut bad, mut count) = (Vec::new(), 0);
    for (document, text) in documents().into_iter().filter(|(name, _)| name != "CHANGELOG.md") {
        for word in code(&text).into_iter().filter(|word| is_path(word)) {
            let (path, folder) = (format!("/{word}"), format!("/{}/", word.trim_end_matches('/')));
            if !all.iter().any(|name| name.ends_with(&path) || name.contains(&folder)) {
                bad.push(format!("{document}: {word}"));
            }
            count += 1;
        }
    }
    assert_eq!(bad, Vec::<String>::new());
    assert!(count > 30, "{count}");
}

/// Tests are named as `module::function`; other words with two colons are code.
#[test]
fn pages_name_tests_that_exist() {
    let (mut bad, mut count) = (Vec::new(), 0);
    let sources = sources();
    for (page, text) in pages() {
        for (module, function) in code(&text).into_iter().filter_map(|word| word.split_once("::")) {
            let is_in = |name: &str| match module {
                "stories" | "mixed" => name.starts_with(&format!("tests/{module}/")),
                _ => name == format!("tests/it/{module}.rs"),
            };
            let signature = format!("async fn {function}()");
            if !sources.iter().any(|(name, text)| is_in(name) && text.contains(&signature)) {
                bad.push(format!("{page}: {module}::{function}"));
            }
            count += 1;
        }
    }
    assert_eq!(bad, Vec::<String>::new());
    assert!(count > 60, "{count}");
}

#[test]
fn every_problem_code_and_exit_reason_is_explained() {
    let source = read("crates/model/src/api/problem.rs");
    let codes: BTreeSet<&str> = source
        .split("pub const fn as_str")
        .nth(1)
        .and_then(|rest| rest.split("\n    }\n").next())
        .unwrap()
        .split('"')
        .skip(1)
        .step_by(2)
        .collect();
    assert!(codes.len() > 20 && codes.contains("no-capacity"), "{codes:?}");
    for page in ["docs/user/http-api.md", "docs/operator/troubleshooting.md"] {
        let listed = first_column(&read(page));
        let missing = codes.iter().filter(|code| !listed.contains(**code));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new(), "{page}");
    }
    let listed = first_column(section(&read("docs/operator/troubleshooting.md"), "## Exit reasons"));
    let reasons: BTreeSet<String> = ExitReason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect();
    assert_eq!(listed, reasons);
}

/// The words in a text between these two, without the quotes around them.
fn words_between(text: &str, start: &str, end: &str) -> BTreeSet<String> {
    let part = text.split(start).nth(1).and_then(|rest| rest.split(end).next()).unwrap_or_default();
    let words = part.lines().flat_map(|line| line.split([',', '|']));
    let words = words.filter_map(|word| word.split(':').next()).map(|word| word.trim().trim_matches('\''));
    words.filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect()
}

#[test]
fn the_pages_and_the_client_library_know_every_exit_reason() {
    let reasons: BTreeSet<String> = ExitReason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect();
    let pages = |name: &str| read(&format!("crates/frontdoor/pages/{name}"));
    assert_eq!(words_between(&pages("client/client.d.ts"), "type ExitReason =", ";"), reasons);
    assert_eq!(words_between(&pages("client/mount.js"), "const EXITS = {", "};"), reasons);
    let dashboard = pages("dashboard.html");
    let offered =
        dashboard.split("<select id=\"past-reason\">").nth(1).and_then(|rest| rest.split("</select>").next());
    let offered = offered.unwrap().lines().filter_map(|line| line.trim().strip_prefix("<option>"));
    let offered: BTreeSet<String> =
        offered.filter_map(|line| line.strip_suffix("</option>")).map(ToOwned::to_owned).collect();
    assert_eq!(offered, reasons, "the filter of the past");
    let bad = words_between(&pages("words.js"), "BAD_ENDS = [", "]");
    assert!(bad.len() > 4 && bad.is_subset(&reasons), "{bad:?}");
}

#[test]
fn every_spawn_state_and_event_is_documented() {
    let states = SpawnState::ALL.iter().map(|state| state.as_str().to_owned()).collect();
    assert_eq!(first_column(section(&read("docs/user/http-api.md"), "## Spawn states")), states);
    let kinds = EventKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
    assert_eq!(first_column(section(&read("docs/user/live-feed.md"), "## Events")), kinds);
}

#[test]
fn every_redis_key_is_documented() {
    let text = read("docs/internals/state.md");
    let words = first_column(section(&text, "## Redis keys"));
    let documented: BTreeSet<&str> = words.iter().map(|key| key.split(':').next().unwrap()).collect();
    let mut used = BTreeSet::new();
    for (name, path) in files() {
        if name.starts_with("crates/registry/") && name.ends_with(".lua") {
            for rest in fs::read_to_string(path).unwrap().split("':").skip(1) {
                let key: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
                let ends_well = rest[key.len()..].starts_with([':', '\'']);
                if !key.is_empty() && ends_well {
                    used.insert(key);
                }
            }
        }
    }
    assert_eq!(documented, used.iter().map(String::as_str).collect());
}

/// Metrics are registered by a prefix and a name, and get `_total` and the like on the way out.
#[test]
fn every_metric_that_pages_name_exists() {
    let sources = sources();
    let (mut bad, mut count) = (Vec::new(), 0);
    for (page, text) in references() {
        for word in code(&text).into_iter().filter(|word| word.starts_with("hatchery_")) {
            let metric = word.split('{').next().unwrap();
            let metric = metric.strip_suffix("_total").or(metric.strip_suffix("_bucket")).unwrap_or(metric);
            let prefixes = ["hatchery_frontdoor_", "hatchery_agent_", "hatchery_tls_"];
            let short = prefixes.iter().find_map(|prefix| metric.strip_prefix(prefix)).unwrap_or(metric);
            let is_registered = |(name, source): &(String, String)| {
                name.starts_with("crates/")
                    && [short, metric].iter().any(|metric| source.contains(&format!("\"{metric}\"")))
            };
            if !sources.iter().any(is_registered) {
                bad.push(format!("{page}: {word}"));
            }
            count += 1;
        }
    }
    assert_eq!(bad, Vec::<String>::new());
    assert!(count > 10, "{count}");
}

#[test]
fn every_flag_that_users_and_operators_read_of_exists() {
    // Of cargo and of docker.
    let foreign = ["--bin", "--build", "--entrypoint", "--release", "--rm", "--volumes"];
    let sources = sources();
    let known = |flag: &str| {
        let (field, name) = (flag.replace('-', "_"), format!("\"{flag}\""));
        let is_field = |source: &str| source.contains(&format!(" {field}: ")) || source.contains(&name);
        sources.iter().any(|(file, source)| file.starts_with("crates/") && is_field(source))
    };
    let (mut bad, mut count) = (Vec::new(), 0);
    for (page, text) in references() {
        for word in code(&text).into_iter().flat_map(|code| code.split([' ', '=', ',', '…'])) {
            let Some(flag) = word.strip_prefix("--").filter(|flag| !flag.is_empty() && !flag.ends_with('-'))
            else {
                continue;
            };
            if !foreign.contains(&word) && !known(flag) {
                bad.push(format!("{page}: {word}"));
            }
            count += 1;
        }
    }
    assert_eq!(bad, Vec::<String>::new());
    assert!(count > 100, "{count}");
}

/// A flag is also a variable: those are how flags are found in the code.
#[test]
fn every_flag_of_the_roles_is_documented() {
    // Hidden from users: for tests and benchmarks.
    let hidden = ["--max-connections", "--start-nothing"];
    let text = read("docs/operator/flags.md");
    let documented: BTreeSet<&str> = code(&text).into_iter().collect();
    let mut flags = BTreeSet::new();
    for (_, source) in sources().into_iter().filter(|(name, _)| name.starts_with("crates/")) {
        for rest in source.split("env = \"HATCHERY_").skip(1) {
            let name = rest.split('"').next().unwrap().to_lowercase().replace('_', "-");
            flags.insert(format!("--{name}"));
        }
    }
    assert!(flags.len() > 60, "{flags:?}");
    let missing = flags.iter().filter(|flag| !documented.contains(flag.as_str()));
    let missing: Vec<&str> = missing.map(String::as_str).filter(|flag| !hidden.contains(flag)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// The settings of HOOPS Server's configuration file, as its releases up to 2025 have them.
const HOOPS_SETTINGS: &str = "spawnServerPort publicHostname ipVersion spawnServerAccessControlAllowOriginHeader \
    fileServerAccessControlAllowOriginHeader sslCertificateFile sslPrivateKeyFile sslCertificateAuthorityPath sslEnableFileServer \
    sslEnableSpawnServer sslEnableScServer sslDisableRevocationTest spawnMaxSpawnCount spawnWebsocketPortsBegin \
    spawnLivelinessReportIntervalTime spawnInitialUseDuration csrEnabled ssrEnabled ssrGpuCount ssrUseEgl restFileserver \
    autoGcIntervalTime disableConsoleEnterToShutdown communicatorDir streamCacheExeFile modelDirs workspaceDir logDir \
    logSpawnFileCategoryMask logSpawnStdoutCategoryMask logSpawnUseDeltaTime logFileTimeFormat logConsoleTimeFormat \
    logStdoutAsLevel logStderrAsLevel logConsoleLevelCutoff logFileLevelCutoff logRestFilterRegex logRestHttpRequestsAsLevel \
    logFileHttpRequestsAsLevel fileServerPort fileServerStaticDirs fileServerProxyViewerConnections \
    windowsServiceRespawnEnabled windowsServiceRespawnLogSuffix license licenseFile";

#[test]
fn the_guide_for_those_who_come_from_hoops_server_has_every_setting_once() {
    let text = read("docs/operator/coming-from-hoops-server.md");
    let rows = section(&text, "## Settings").lines().filter(|line| line.starts_with("| `"));
    let mut listed: Vec<&str> = rows
        .flat_map(|row| {
            row.trim_start_matches("| ").split(" | ").next().unwrap().split('`').skip(1).step_by(2)
        })
        .filter(|word| word.chars().all(|c| c.is_ascii_alphanumeric()))
        .collect();
    listed.sort_unstable();
    let mut wanted: Vec<&str> = HOOPS_SETTINGS.split_whitespace().collect();
    wanted.sort_unstable();
    assert_eq!(listed, wanted);
}

#[test]
fn decisions_are_numbered_short_and_say_what_was_rejected() {
    let decisions: Vec<(String, String)> = pages()
        .into_iter()
        .filter_map(|(name, text)| Some((name.strip_prefix("docs/internals/decisions/")?.to_owned(), text)))
        .filter(|(name, _)| name != "README.md")
        .collect();
    let mut numbers: Vec<&str> = decisions.iter().map(|(name, _)| &name[..4]).collect();
    numbers.sort_unstable();
    let expected: Vec<String> = (1..=decisions.len()).map(|n| format!("{n:04}")).collect();
    assert_eq!(numbers, expected);
    for (name, text) in &decisions {
        assert!(text.starts_with(&format!("# {} ", &name[..4])), "{name}: its title has its number");
        assert!(text.lines().count() <= 50, "{name}: at most 50 lines");
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(headings, ["## Context", "## Decision", "## Consequences", "## Rejected"], "{name}");
    }
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 140, "{lines}");
}
