//! Whether people can read a part of a page, with their eyes or without.

use hatchery_tests::Browser;
use serde_json::json;

/// Fields and tables of a part of the page that have no name, and texts whose contrast is below what is readable; computed as WCAG 2 does.
const UNREADABLE: &str = r#"
    const section = document.querySelector(arguments[0]);
    const wrong = [];
    for (const field of section.querySelectorAll('input, select, button')) {
        const name = field.labels?.[0]?.innerText || field.getAttribute('aria-label') || field.innerText;
        if (!name?.trim()) wrong.push(`${field.id} has no name`);
    }
    for (const table of section.querySelectorAll('table')) {
        if (!table.caption?.innerText.trim()) wrong.push('a table has no caption');
        for (const head of table.querySelectorAll('th')) if (!head.scope) wrong.push(`${head.innerText} has no scope`);
    }
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const paint = (colors) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    for (const text of section.querySelectorAll('h2, label, button, p, a, li, dt, dd, th, td, pre, .chip')) {
        if (!text.innerText.trim() || text.offsetParent === null) continue;
        const grounds = [];
        for (let at = text; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
        const [ground, ink] = [paint(['white', ...grounds]), paint(['white', ...grounds, getComputedStyle(text).color])];
        const [a, b] = [light(ground), light(ink)].sort((x, y) => y - x);
        const contrast = (a + 0.05) / (b + 0.05);
        if (contrast < 4.5) wrong.push(`${text.innerText.slice(0, 30)}: contrast ${contrast.toFixed(2)}`);
    }
    return wrong;
"#;

/// Checks the part of the page that this selects. `how`: how the page is shown, for the message.
pub(crate) async fn is_readable(browser: &Browser, css: &str, how: &str) {
    assert_eq!(browser.run_with(UNREADABLE, &json!([css])).await, json!([]), "{css}, {how}");
}
