use std::sync::{atomic::AtomicUsize, mpsc};

use super::*;
use crate::backend::raft::{driver::Event, transport::Refusals};

/// A transport on a port of its own, and what it delivers.
struct End {
    peer: Peer,
    transport: TcpTransport,
    events: Mutex<mpsc::Receiver<Event>>,
    refusals: Refusals,
}

impl End {
    async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let id = MemberId::from_name(name);
        let transport = TcpTransport::new(listener, Secret::new("token"));
        let (sender, events) = mpsc::channel();
        let refusals = Refusals::default();
        let inbox = Inbox::new(sender, Arc::new(AtomicUsize::new(0)), Arc::clone(&refusals));
        let local = Local {
            id,
            cell: "cell".to_owned(),
            incarnation: rand::random(),
        };
        transport.start(local, inbox);
        let peer = Peer { id, addr };
        Self {
            peer,
            transport,
            events: Mutex::new(events),
            refusals,
        }
    }

    /// Waits for this frame; passes over all else.
    async fn hears(&self, from: &Self, wanted: Frame) {
        let heard = async {
            loop {
                let event = self.events.lock().try_recv();
                match event {
                    Ok(Event::Frame(sender, frame))
                        if sender == from.peer.id && frame == wanted =>
                    {
                        return;
                    }
                    Ok(_) => {}
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(Duration::from_secs(30), heard).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_missed_its_removal_is_told_though_nobody_speaks_to_it_any_more() {
    let (founder, removed) = (End::start("founder").await, End::start("removed").await);
    removed
        .transport
        .set_peers(std::slice::from_ref(&founder.peer), &[]);
    founder
        .transport
        .set_peers(std::slice::from_ref(&removed.peer), &[]);
    // Both connections stand: a frame came through on each. What is sent before that is dropped.
    let word = || Frame::Forward(Vec::new());
    for (from, to) in [(&removed, &founder), (&founder, &removed)] {
        let send = async {
            loop {
                from.transport.send(to.peer.id, word().encode());
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = send => {}
            () = to.hears(from, word()) => {}
        }
    }
    founder.transport.set_peers(&[], &[removed.peer.id]);
    removed.hears(&founder, Frame::Removed).await;
    let why = removed.refusals.lock().values().next().cloned();
    assert!(why.is_some_and(|why| why.contains("was removed")));
}
