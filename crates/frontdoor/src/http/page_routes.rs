//! The routes of the pages. They are for browsers, and not part of the described surface.

use axum::http::HeaderMap;

use super::authorization::OPEN;
use super::origin::Reach;
use super::route::Route;
use crate::pages::PAGES;

/// One for each file.
pub(crate) fn routes() -> impl Iterator<Item = Route> {
    PAGES.iter().map(|page| {
        Route::at(page.path).reaching(Reach::Anywhere).get(OPEN, async |asked: HeaderMap| page.answer(&asked))
    })
}
