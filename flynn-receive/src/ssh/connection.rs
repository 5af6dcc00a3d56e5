//! One SSH connection: shows who it is, asks for one git command.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use russh::{
    Channel, ChannelId, ChannelMsg, ChannelReadHalf,
    keys::HashAlg,
    server::{
        Auth, ChannelOpenHandle, Handle, Handler, Msg, PublicKeyOffer, Response, Session,
        VerifiedPublicKey,
    },
};
use tokio::{
    io::{AsyncWriteExt, SimplexStream, WriteHalf},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{GitCommand, Parts, PushKey, Pusher, Streams};

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Connected,
    /// It has asked for a command.
    Commanded,
}

pub(super) struct Connection {
    parts: Arc<Parts>,
    peer: SocketAddr,
    progress: watch::Sender<Progress>,
    gone: CancellationToken,
    commands: TaskTracker,
    /// Channels that are open and have not asked for anything.
    channels: HashMap<ChannelId, Channel<Msg>>,
    pusher: Option<Pusher>,
    /// Keys are offered first and proved afterwards: what was found out is kept in between.
    known: Option<(PushKey, Pusher)>,
    /// What a client that has no more keys is told.
    hint: Option<String>,
}

impl Connection {
    pub(super) fn new(
        parts: Arc<Parts>,
        peer: SocketAddr,
        progress: watch::Sender<Progress>,
        gone: CancellationToken,
        commands: TaskTracker,
    ) -> Self {
        Self {
            parts,
            peer,
            progress,
            gone,
            commands,
            channels: HashMap::new(),
            pusher: None,
            known: None,
            hint: None,
        }
    }

    async fn identify(&mut self, key: &russh::keys::ssh_key::PublicKey) -> Option<Pusher> {
        let key = push_key(key)?;
        if let Some((known, pusher)) = &self.known
            && *known == key
        {
            return Some(pusher.clone());
        }
        match self.parts.authenticator.identify(&key).await {
            Ok(Some(pusher)) => {
                self.known = Some((key, pusher.clone()));
                Some(pusher)
            }
            Ok(None) => {
                info!(peer = %self.peer, key = key.fingerprint, "an unknown key is refused");
                self.hint = Some(UNKNOWN_KEY.to_owned());
                None
            }
            Err(error) => {
                warn!(peer = %self.peer, %error, "keys cannot be checked");
                self.hint = Some(format!(
                    "flynn: your key cannot be checked at present ({error}); try again in a moment"
                ));
                None
            }
        }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(match self.identify(offer.public_key).await {
            Some(_) => Auth::Accept,
            None => Auth::reject(),
        })
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        self.pusher = self.identify(key.public_key).await;
        Ok(match &self.pusher {
            Some(_) => Auth::Accept,
            None => Auth::reject(),
        })
    }

    /// A client comes here when all its keys were refused. It is asked nothing, only told what to do.
    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        if response.is_some() {
            return Ok(Auth::Reject {
                proceed_with_methods: Some(russh::MethodSet::from(
                    &[russh::MethodKind::PublicKey][..],
                )),
                partial_success: false,
            });
        }
        let hint = self.hint.take().unwrap_or_else(|| NO_KEY.to_owned());
        Ok(Auth::Partial {
            name: "".into(),
            instructions: hint.into(),
            prompts: Vec::new().into(),
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        // A push needs one; a second is a client that does not know what it wants.
        if self.channels.is_empty() && self.commands.is_empty() {
            self.channels.insert(channel.id(), channel);
            reply.accept().await;
        }
        Ok(())
    }

    async fn channel_close(
        &mut self,
        _channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.gone.cancel();
        Ok(())
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        self.refuse(channel, session, NO_SHELL);
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        let line = String::from_utf8_lossy(data);
        let Some(command) = GitCommand::parse(&line) else {
            self.refuse(channel, session, NO_SHELL);
            return Ok(());
        };
        let (Some(open), Some(pusher)) = (self.channels.remove(&channel), self.pusher.clone())
        else {
            return session.close(channel);
        };
        info!(peer = %self.peer, pusher = pusher.name, ?command, "command");
        self.progress.send_replace(Progress::Commanded);
        let running = run(
            Arc::clone(&self.parts),
            pusher,
            command,
            open,
            session.handle(),
            self.gone.clone(),
        );
        self.commands.spawn(running);
        Ok(())
    }
}

impl Connection {
    /// Says `why` and ends the command.
    fn refuse(&mut self, channel: ChannelId, session: &Session, why: &'static str) {
        self.progress.send_replace(Progress::Commanded);
        self.channels.remove(&channel);
        let handle = session.handle();
        // Not awaited here: the session sends what the handle says only when it goes on.
        self.commands.spawn(async move {
            let _ = handle
                .extended_data(channel, STDERR, format!("{why}\n"))
                .await;
            end(&handle, channel, 1).await;
        });
    }
}

async fn run(
    parts: Arc<Parts>,
    pusher: Pusher,
    command: GitCommand,
    channel: Channel<Msg>,
    handle: Handle,
    gone: CancellationToken,
) {
    let id = channel.id();
    let stdout = channel.make_writer();
    let stderr = channel.make_writer_ext(Some(STDERR));
    let (incoming, _outgoing) = channel.split();
    let (stdin, fill) = tokio::io::simplex(STDIN_BUFFER);
    let streams = Streams {
        stdin: Box::new(stdin),
        stdout: Box::new(Box::pin(stdout)),
        stderr: Box::new(Box::pin(stderr)),
    };
    let status = {
        let running = parts.service.run(&pusher, command, streams, gone);
        tokio::pin!(running);
        tokio::select! {
            status = &mut running => status,
            // The client has said all; the command goes on.
            () = feed(incoming, fill) => running.await,
        }
    };
    end(&handle, id, status).await;
}

/// Hands on what the client sends, until it says that this is all.
async fn feed(mut incoming: ChannelReadHalf, mut stdin: WriteHalf<SimplexStream>) {
    while let Some(message) = incoming.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                let taken = stdin.write_all(&data).await;
                if taken.is_err() {
                    return;
                }
            }
            ChannelMsg::Eof | ChannelMsg::Close => break,
            _ => {}
        }
    }
    let _ = stdin.shutdown().await;
}

/// Ends a command in the order that clients expect.
async fn end(handle: &Handle, channel: ChannelId, status: u32) {
    let _ = handle.exit_status_request(channel, status).await;
    let _ = handle.eof(channel).await;
    let _ = handle.close(channel).await;
}

fn push_key(key: &russh::keys::ssh_key::PublicKey) -> Option<PushKey> {
    let mut bare = key.clone();
    bare.set_comment("");
    Some(PushKey {
        line: bare.to_openssh().ok()?.trim().to_owned(),
        fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
    })
}

/// Extended data of this kind is standard error.
const STDERR: u32 = 1;

/// How much of what a client sends waits for git.
const STDIN_BUFFER: usize = 256 << 10;

const UNKNOWN_KEY: &str =
    "flynn: your key is not known here; add it with `flynn key add` and push again";
const NO_KEY: &str = "flynn: pushing needs an SSH key; make one with `ssh-keygen -t ed25519`, add it with `flynn key add` and push again";
const NO_SHELL: &str =
    "flynn: there is no shell here, only `git push`; for a shell in an app use `flynn run`";
