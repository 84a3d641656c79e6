//! A service on a database that has its tokens already.

use tempfile::TempDir;

use super::{Service, spawn};
use crate::both::On;

impl On {
    /// Starts the service in a directory; the token is one that the database knows.
    pub(crate) async fn start_again(&self, directory: TempDir, token: &str) -> Service {
        let environment = match self {
            Self::Embedded => Vec::new(),
            Self::Shared(database) => {
                vec![("GATEWAY_EVENTS__DATABASE__URL".to_owned(), database.url())]
            }
        };
        let prelude = ":".to_owned();
        let (process, port, shown) = spawn(directory.path(), 0, &environment, &prelude).await;
        assert!(shown.is_none(), "there is a token already");
        Service { process, directory, environment, prelude, port, token: token.to_owned() }
    }
}
