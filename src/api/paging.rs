//! Lists that come in pages, and windows of time.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::clock::Timestamp;

/// Which page of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The most elements of the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
    /// `pagination.next` of the page before. It is valid only with the filters of
    /// that page.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// The page size if the request names none.
    pub const DEFAULT_LIMIT: usize = 100;
    /// The largest page.
    pub const MAX_LIMIT: usize = 1000;
}

/// A window of time, `[from, to)`. Without `to` it ends now, and without `from` it
/// begins 24 hours before its end, unless the request's description says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Window {
    /// Start of the window, included (RFC 3339 with an offset). 24 hours before the
    /// end if left out.
    pub from: Option<Timestamp>,
    /// End of the window, excluded (RFC 3339 with an offset). Now if left out.
    pub to: Option<Timestamp>,
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// Number of elements on this page.
    pub count: usize,
    /// The elements. A page may be short, or even empty, although there is a next one.
    pub list: Vec<T>,
    /// How to read on.
    pub pagination: Pagination,
}

/// How to read on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pagination {
    /// The most elements of a page.
    pub limit: usize,
    /// `cursor` of the next page; `null` on the last one.
    #[schema(required = true)]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of a list that goes on at `next`.
    pub fn new(list: Vec<T>, limit: usize, next: Option<String>) -> Self {
        Self { count: list.len(), list, pagination: Pagination { limit, next } }
    }

    /// A list that has one page only.
    pub fn whole(list: Vec<T>) -> Self {
        let count = list.len();
        Self::new(list, count, None)
    }
}
