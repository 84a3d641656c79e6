//! An SMTP server that stores what it receives. It speaks enough of SMTP for a client that behaves.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::TEST_TIMEOUT;

/// How a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It accepts e-mails of a user.
    Accepting,
    /// It refuses recipients.
    Refusing,
    /// It greets with a line that has no end.
    Endless,
}

pub(super) struct MailServer {
    pub(super) port: u16,
    received: watch::Receiver<Vec<String>>,
    task: JoinHandle<()>,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MailServer {
    pub(super) async fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (sender, received) = watch::channel(Vec::new());
        let sender = Arc::new(sender);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = Arc::clone(&sender);
                tokio::spawn(async move {
                    // A client that hangs up is no failure of the server.
                    let _ = serve(stream, kind, &sender).await;
                });
            }
        });
        Self { port, received, task }
    }

    /// The next e-mails: commands of the envelope, an empty line, and the message.
    pub(super) async fn until(&self, count: usize) -> Vec<String> {
        let mut received = self.received.clone();
        let found = tokio::time::timeout(TEST_TIMEOUT, received.wait_for(|all| all.len() >= count));
        found.await.expect("in time").expect("the server runs").clone()
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    kind: Kind,
    sender: &watch::Sender<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    if kind == Kind::Endless {
        loop {
            stream.write_all(&[b'2'; 0x1000]).await?;
        }
    }
    stream.write_all(b"220 mail.test ESMTP\r\n").await?;
    let (mut line, mut envelope) = (String::new(), String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let word = line.split_whitespace().next().unwrap_or_default().to_uppercase();
        let answer: &[u8] = match word.as_str() {
            "EHLO" => b"250-mail.test\r\n250 AUTH PLAIN\r\n",
            "AUTH" => {
                envelope += &line;
                b"235 2.7.0 welcome\r\n"
            }
            "MAIL" => {
                envelope += &line;
                b"250 2.1.0 fine\r\n"
            }
            "RCPT" if kind == Kind::Refusing => b"550 5.1.1 no such mailbox\r\n",
            "RCPT" => {
                envelope += &line;
                b"250 2.1.5 fine\r\n"
            }
            "DATA" => {
                stream.write_all(b"354 go ahead\r\n").await?;
                let mut message = String::new();
                loop {
                    line.clear();
                    stream.read_line(&mut line).await?;
                    if line == ".\r\n" {
                        break;
                    }
                    message += &line;
                }
                let email = format!("{envelope}\r\n{message}");
                sender.send_modify(|all| all.push(email));
                b"250 2.0.0 queued as 42\r\n"
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n").await,
            _ => b"502 what?\r\n",
        };
        stream.write_all(answer).await?;
    }
}
