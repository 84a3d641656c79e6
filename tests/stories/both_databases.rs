//! Runs black-box tests on both databases: the embedded one and Postgres.

use gateway_events::store::{VerifyReport, postgres, sqlite};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::server::Database;
use crate::store_postgres;
use crate::support::Service;

/// The database of a test.
pub(crate) enum Backend {
    /// SQLite, in a file in the service's directory.
    Sqlite,
    /// Postgres.
    Postgres(Database),
}

impl Backend {
    pub(crate) fn postgres() -> Self {
        Self::Postgres(Database::new())
    }

    /// Another empty database of the same kind.
    pub(crate) fn fresh(&self) -> Self {
        match self {
            Self::Sqlite => Self::Sqlite,
            Self::Postgres(_) => Self::postgres(),
        }
    }

    /// Starts the service with this database.
    pub(crate) async fn start(&self) -> Service {
        match self {
            Self::Sqlite => Service::start().await,
            Self::Postgres(_) => self.start_with(&[]).await,
        }
    }

    /// Starts the service with this database and additional settings.
    pub(crate) async fn start_with(&self, settings: &[(&str, &str)]) -> Service {
        match self {
            Self::Sqlite => Service::start_with(settings).await,
            Self::Postgres(database) => {
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
            Self::Sqlite => {
                let file = SqliteConnectOptions::new().filename(service.database());
                let mut database = file.connect().await.expect("the database");
                let statements = AssertSqlSafe(statements.to_owned());
                sqlx::raw_sql(statements).execute(&mut database).await.expect("changed");
                database.close().await.expect("closed");
            }
            Self::Postgres(database) => database.run(statements),
        }
    }

    /// Verifies the database.
    pub(crate) async fn verify(&self, service: &Service) -> VerifyReport {
        match self {
            Self::Sqlite => sqlite::verify::verify(&service.database()).await.expect("readable"),
            Self::Postgres(database) => {
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
                    super::$story($crate::both_databases::Backend::Sqlite).await;
                }
            )*
        }

        mod shared {
            $(
                #[tokio::test]
                async fn $story() {
                    super::$story($crate::both_databases::Backend::postgres()).await;
                }
            )*
        }
    };
}
pub(crate) use on_both;
