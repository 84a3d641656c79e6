//! The mark of a backup that was not restored: the application id in the header of the file
//! (<https://www.sqlite.org/fileformat2.html>, "Application ID"). A server does not open such a file,
//! because it would give sequences to other events than the database that the backup was made of.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sqlx::SqliteConnection;

/// "geBK".
const MARK: u32 = 0x6765_424b;
/// Where the id is in the header, as four bytes in big-endian order.
const OFFSET: u64 = 68;

/// Marks a complete copy, which must not be open as a database.
pub(super) fn set(file: &File) -> io::Result<()> {
    file.write_all_at(&MARK.to_be_bytes(), OFFSET)
}

/// Whether the file of this connection is marked.
pub(super) async fn is_set(conn: &mut SqliteConnection) -> sqlx::Result<bool> {
    let id: i64 = sqlx::query_scalar("pragma application_id").fetch_one(conn).await?;
    Ok(id == i64::from(MARK))
}

/// Removes the mark, and leaves other ids as they are.
pub(super) async fn clear(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    if is_set(conn).await? {
        sqlx::query("pragma application_id = 0").execute(conn).await?;
    }
    Ok(())
}
