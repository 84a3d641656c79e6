//! Pages of lists, and time windows.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::clock::Timestamp;

/// Which page of a list to return.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The maximum number of elements on the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
    /// `pagination.next` of the previous page. Only valid with the same filters.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// The default size of a page.
    pub const DEFAULT_LIMIT: usize = 100;
    /// The maximum size of a page.
    pub const MAX_LIMIT: usize = 1000;
}

/// A time window, `[from, to)`. By default it ends now and begins 24 hours before its end, unless
/// the request's description says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Window {
    /// Start of the window, included (RFC 3339 with an offset). By default 24 hours before its end.
    pub from: Option<Timestamp>,
    /// End of the window, excluded (RFC 3339 with an offset). By default now.
    pub to: Option<Timestamp>,
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// Number of elements on this page.
    #[schema(example = 1)]
    pub count: usize,
    /// The elements. A page that is short or even empty may have a next one.
    pub list: Vec<T>,
    /// How to get the next page.
    pub pagination: Pagination,
}

/// How to get the next page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pagination {
    /// The maximum number of elements on a page.
    #[schema(example = 100)]
    pub limit: usize,
    /// `cursor` of the next page; `null` on the last one.
    #[schema(required = true)]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of a list that continues at `next`.
    pub fn new(list: Vec<T>, limit: usize, next: Option<String>) -> Self {
        Self { count: list.len(), list, pagination: Pagination { limit, next } }
    }

    /// A list with a single page.
    pub fn whole(list: Vec<T>) -> Self {
        let count = list.len();
        Self::new(list, count, None)
    }
}
