//! Asks one listed address, over and over, how far its formation is.

use super::actor::{AddressAnswered, AddressLost, FormationActor, OwnAddressFound, Question, ReportWanted};
use crate::mailbox::Mailbox;
use crate::peer::handshake::{PeerRefusal, connect};
use crate::peer::link::retry_delay;
use crate::peer::local::LocalPeer;
use crate::peer::socket::FrameSocket;
use bytes::Bytes;
use lance_messages::peer::PeerIdentity;
use lance_messages::wire::peer::{PeerCommand, PeerFrame, PeerPurpose, PeerStage};
use std::sync::Arc;
use std::time::Duration;

/// Between two questions to one address, unless there is news.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Ends when this node knows its cluster and whoever is at the address has heard of it, or when the address is its own.
pub async fn ask_forever(address: String, local: Arc<LocalPeer>, actor: Mailbox<FormationActor>) {
    let (mut failures, mut said) = (0u32, String::new());
    loop {
        actix_rt::time::sleep(retry_delay(failures, rand::random())).await;
        let ended = match connect(&address, &local, PeerPurpose::Formation, None).await {
            Ok((socket, from)) => {
                failures = 0;
                ask_on(socket, from, &address, &actor).await
            }
            Err(PeerRefusal::OwnAddress) => {
                let _ = actor.send(OwnAddressFound { address }).await;
                return;
            }
            Err(refusal) => Err(refusal),
        };
        let Err(refusal) = ended else { return };
        failures = failures.saturating_add(1);
        let text = refusal.to_string();
        if text != said {
            tracing::warn!(%address, %refusal, "a listed node is not reached");
            said.clone_from(&text);
        }
        // Nobody listens any more when the node goes down.
        let matters = actor.send(AddressLost { address: address.clone(), reason: text }).await;
        if !matters.unwrap_or(false) {
            return;
        }
    }
}

/// Asks on one connection; `Ok` when there is nothing more to ask.
async fn ask_on(
    mut socket: FrameSocket,
    from: PeerIdentity,
    address: &str,
    actor: &Mailbox<FormationActor>,
) -> Result<(), PeerRefusal> {
    loop {
        let report = match actor.send(ReportWanted { address: address.to_owned() }).await {
            Ok(Question::Ask(report)) => report,
            Ok(Question::Later) => {
                actix_rt::time::sleep(ASK_EVERY).await;
                continue;
            }
            Ok(Question::Nothing) | Err(_) => return Ok(()),
        };
        let body = ask_once(&mut socket, report.body).await?;
        let answered = AddressAnswered { address: address.to_owned(), from, body };
        if actor.send(answered).await.is_err() {
            return Ok(());
        }
        // A change is told at once: the other side waits for it.
        let mut news = report.news;
        let _ = actix_rt::time::timeout(ASK_EVERY, news.changed()).await;
    }
}

async fn ask_once(socket: &mut FrameSocket, body: Bytes) -> Result<Bytes, PeerRefusal> {
    let asked = async {
        socket.send(&PeerFrame::Formation(body)).await?;
        match socket.receive(PeerStage::Open).await? {
            PeerFrame::FormationAnswer(body) => Ok(body),
            other => Err(PeerRefusal::Unexpected { found: other.command(), expected: PeerCommand::FormationAnswer }),
        }
    };
    let late = |_| PeerRefusal::TimedOut { timeout_ms: ANSWER_TIMEOUT.as_millis() };
    actix_rt::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(late)?
}
