//! A terminal of 80 columns, for commands with prompts and for tables.

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::Command;

use super::TEST_TIMEOUT;

/// Runs a command on a pseudo-terminal with this input. Returns its exit code and the terminal's
/// output.
pub(crate) async fn run_on_terminal(mut command: Command, typed: &str) -> (Option<i32>, String) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&controller).expect("granted");
    unlockpt(&controller).expect("unlocked");
    let name = ptsname(&controller, Vec::new()).expect("a name");
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let terminal = File::from(rustix::fs::open(&name, flags, Mode::empty()).expect("a terminal"));
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).expect("a size");
    let mut controller = File::from(controller);
    controller.write_all(typed.as_bytes()).expect("typed");
    let end = || terminal.try_clone().expect("another descriptor");
    let mut process =
        command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("the binary starts");
    // The command has descriptors of the terminal. Reading ends when all of them are closed.
    drop((command, terminal));
    let reading = tokio::task::spawn_blocking(move || {
        let mut shown = Vec::new();
        // Linux ends the output with an error instead of an end of file.
        let _ = controller.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).replace("\r\n", "\n")
    });
    let ended = tokio::time::timeout(3 * TEST_TIMEOUT, process.wait()).await;
    let code = ended.expect("it ends in time").expect("it ends").code();
    (code, reading.await.expect("read to the end"))
}
