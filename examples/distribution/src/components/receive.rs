//! The receiver: git over SSH, builds as jobs, and this host's replica of the blob store.

use std::{env, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use flynn_controller::http::Client as Controller;
use flynn_discovery::{
    ServiceName,
    http::{Client as Http, Keys, Secret, serve},
};
use flynn_receive::{
    Receiver, StaticServer,
    blob::{BlobServer, BlobStore, CapabilityKey, FsBlobStore, RegistryPeers, ReplicatedBlobStore},
    build::JobBuildRunner,
    builder::{build_env, main_in_job},
    ssh::HostKey,
};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    member::{self, Member},
    program, settings, signals,
};

/// `flynn-receive` serves; `flynn-receive build` is what a build job runs; `flynn-receive serve-static DIR` is what a
/// static site runs.
#[must_use]
pub fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("build"), None) => program::command("flynn-receive", async {
            Ok(main_in_job(&env::current_dir()?, env::vars().collect()).await)
        }),
        (Some("serve-static"), Some(root)) => {
            program::service("flynn-receive", serve_static(root.into()))
        }
        (None, None) => program::service("flynn-receive", receive()),
        _ => crate::failure::bad_usage(
            "flynn-receive",
            "it is started by a host: without arguments, with `build`, or with `serve-static DIR`",
        ),
    }
}

async fn receive() -> Result<()> {
    let stop = signals::shutdown()?;
    let member = Member::from_env()?;
    let data_dir = PathBuf::from(member::variable("FLYNN_VOLUME_DATA")?);
    let blob_addr = settings::at(member.addr, member::port("PORT", 0)?);
    let ssh_addr = settings::at(member.addr, member::port("SSH_PORT", 2222)?);
    let blob_listener = TcpListener::bind(&blob_addr)
        .await
        .with_context(|| format!("the blob store cannot listen on {blob_addr}"))?;
    let ssh_listener = TcpListener::bind(&ssh_addr)
        .await
        .with_context(|| format!("the receiver cannot listen on {ssh_addr}: is the port taken?"))?;

    let local = FsBlobStore::open(data_dir.join("blobs")).await?;
    let peers = RegistryPeers::new(
        member.registry.clone(),
        ServiceName::parse("blobstore")?,
        &*blob_addr,
        member.token.clone(),
    );
    let replicated = Arc::new(ReplicatedBlobStore::new(local.clone(), Arc::new(peers)));
    let capabilities = CapabilityKey::derive(member.token.expose().as_bytes());
    let blobs: Arc<dyn BlobStore> = Arc::clone(&replicated) as Arc<dyn BlobStore>;
    let server = BlobServer::new(Arc::clone(&blobs), Keys::new(vec![member.token.clone()]))
        .with_local(Arc::new(local))
        .with_capabilities(capabilities.clone());

    let controller = controller(&member)?;
    let program = env::current_exe().context("our own program cannot be found")?;
    let program = vec![program.display().to_string(), "build".to_owned()];
    let runner = JobBuildRunner::new(
        controller.clone(),
        blobs,
        vec![format!("http://{blob_addr}")],
        capabilities,
        program,
    )
    .with_buildpacks(member::variable("BUILDPACKS")?)
    .with_env(build_env(
        env::vars().filter(|(name, _)| name != "HOME" && name != "TMPDIR"),
    ));
    let host_key = HostKey::parse(&member::variable("SSH_HOST_KEY")?)?;
    let receiver = Receiver::builder(
        controller,
        Arc::new(runner),
        host_key,
        data_dir.join("repositories"),
    )
    .with_path(env::var("PATH").unwrap_or_default())
    .with_http_port(member::port("ROUTER_PORT", 80)?)
    .build()
    .await?;

    let (stopping, stopped) = watch::channel(false);
    let until = || {
        let mut stopped = stopped.clone();
        async move {
            // The sender is dropped only when this function ends.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let serving = tokio::spawn(serve(blob_listener, server.router(), until()));
    let replicating = tokio::spawn({
        let until = until();
        async move { replicated.run(until).await }
    });
    tracing::info!(%blob_addr, %ssh_addr, "receiving");
    receiver
        .run(ssh_listener, async {
            let signal = stop.await;
            tracing::info!(%signal, "stopping");
        })
        .await?;
    stopping.send_replace(true);
    replicating.await?;
    serving.await??;
    Ok(())
}

/// The controller behind the routers, this host's first: they know which controllers are up.
fn controller(member: &Member) -> Result<Controller> {
    let port = member::port("ROUTER_PORT", 80)?;
    let domain = member::variable("DOMAIN")?;
    let endpoints = member
        .hosts
        .iter()
        .map(|host| format!("http://{host}:{port}"))
        .collect();
    let key = Secret::new(member::variable("CONTROLLER_KEY")?);
    let http = Http::new(endpoints)?
        .with_key(key)
        .with_noun("controller")
        .with_host(&format!("controller.{domain}"));
    Ok(Controller::over(http))
}

/// Serves a directory on `PORT`.
async fn serve_static(root: PathBuf) -> Result<()> {
    let stop = signals::shutdown()?;
    let ip = env::var("LISTEN_IP")
        .or_else(|_| env::var("EXTERNAL_IP"))
        .unwrap_or_else(|_| "127.0.0.1".to_owned());
    let ip = ip
        .parse()
        .with_context(|| format!("LISTEN_IP={ip} is not an IP address"))?;
    let addr = settings::at(ip, member::port("PORT", 8080)?);
    let listener = TcpListener::bind(&addr)
        .await
        .with_context(|| format!("the file server cannot listen on {addr}"))?;
    let server = StaticServer::new(&root).await?;
    tracing::info!(%addr, root = %root.display(), "serving files");
    serve(listener, server.router(), async {
        stop.await;
    })
    .await?;
    Ok(())
}
