//! key add, list, remove.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    args::KeyCommand,
    context::{Context, about},
    output::{note, table},
};

pub(super) async fn run(context: &Context, command: Option<KeyCommand>) -> Result<()> {
    let client = context.client()?;
    match command.unwrap_or(KeyCommand::List) {
        KeyCommand::Add { file } => {
            let file = file.map_or_else(default_key, Ok)?;
            let key = fs::read_to_string(&file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            let key = client
                .add_key(key.trim())
                .await
                .with_context(|| format!("{} was not accepted", file.display()))?;
            context
                .format
                .print(&key, |key| format!("Key {} added.", key.id))
        }
        KeyCommand::List => {
            let keys = client.keys().await?;
            context.format.print(&keys, |keys| {
                table(
                    ["ID", "COMMENT"],
                    keys.iter().map(|key| [key.id.clone(), key.comment.clone()]),
                )
            })
        }
        KeyCommand::Remove { id } => {
            about(
                &format!("key {id}"),
                "`flynn key` lists the keys",
                client.delete_key(&id).await,
            )?;
            note(&format!("Key {id} removed."));
            Ok(())
        }
    }
}

fn default_key() -> Result<PathBuf> {
    let home = env::var_os("HOME").context("HOME is not set: name the key's file")?;
    let dir = PathBuf::from(home).join(".ssh");
    ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"]
        .iter()
        .map(|name| dir.join(name))
        .find(|path| path.exists())
        .with_context(|| format!("there is no public key in {}: make one with `ssh-keygen -t ed25519`, or name its file", dir.display()))
}
