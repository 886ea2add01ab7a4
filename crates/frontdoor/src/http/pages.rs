//! The routes of the pages. They are for browsers, and not part of the described surface.

use axum::http::HeaderMap;
use axum::routing::get;

use super::Route;
use crate::pages::PAGES;

/// One for each file.
pub(crate) fn routes() -> impl Iterator<Item = Route> {
    PAGES.iter().map(|page| (page.path, get(async |asked: HeaderMap| page.answer(&asked))))
}
