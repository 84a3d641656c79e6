//! Runs black-box tests on both databases: the embedded one and Postgres.

use gateway_events::store::{VerifyReport, postgres, sqlite};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::server::Database;
use crate::store_postgres;
use crate::support::Service;

/// The database of a test.
pub(crate) enum On {
    /// SQLite, in a file in the service's directory.
    Embedded,
    /// Postgres.
    Shared(Database),
}

impl On {
    pub(crate) fn shared() -> Self {
        Self::Shared(Database::new())
    }

    /// Another empty database of the same kind.
    pub(crate) fn fresh(&self) -> Self {
        match self {
            Self::Embedded => Self::Embedded,
            Self::Shared(_) => Self::shared(),
        }
    }

    /// Starts the service with this database.
    pub(crate) async fn start(&self) -> Service {
        match self {
            Self::Embedded => Service::start().await,
            Self::Shared(_) => self.start_with(&[]).await,
        }
    }

    /// Starts the service with this database and further settings.
    pub(crate) async fn start_with(&self, settings: &[(&str, &str)]) -> Service {
        match self {
            Self::Embedded => Service::start_with(settings).await,
            Self::Shared(database) => {
                let url = database.url();
                let settings: Vec<_> =
                    settings.iter().copied().chain([("DATABASE__URL", url.as_str())]).collect();
                Service::start_with(&settings).await
            }
        }
    }

    /// Runs statements in the database beside the service.
    pub(crate) async fn change(&self, service: &Service, statements: &str) {
        match self {
            Self::Embedded => {
                let file = SqliteConnectOptions::new().filename(service.database());
                let mut database = file.connect().await.expect("the database");
                let statements = AssertSqlSafe(statements.to_owned());
                sqlx::raw_sql(statements).execute(&mut database).await.expect("changed");
                database.close().await.expect("closed");
            }
            Self::Shared(database) => database.run(statements),
        }
    }

    /// Verifies the database.
    pub(crate) async fn verify(&self, service: &Service) -> VerifyReport {
        match self {
            Self::Embedded => sqlite::verify::verify(&service.database()).await.expect("readable"),
            Self::Shared(database) => {
                postgres::verify(&store_postgres::options(database)).await.expect("readable")
            }
        }
    }
}

/// Makes two tests of each function, one per database.
macro_rules! on_both {
    ($($story:ident)*) => {
        mod embedded {
            $(
                #[tokio::test]
                async fn $story() {
                    super::$story($crate::both_databases::On::Embedded).await;
                }
            )*
        }

        mod shared {
            $(
                #[tokio::test]
                async fn $story() {
                    super::$story($crate::both_databases::On::shared()).await;
                }
            )*
        }
    };
}
pub(crate) use on_both;
