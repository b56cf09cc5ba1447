//! Programs and webhooks of `cluster set-machines`: what the recipe `command` calls, and what reinstalls machines.

use evenkeel_api::password::Secret;
use serde_json::{Value, json};

use super::read_text;
use crate::args::{RecipeKind, SetMachines};
use crate::failure::CliError;
use crate::io::Io;

/// Whether what is given fits together.
pub(super) fn fits(args: &SetMachines) -> Result<(), CliError> {
    let is_command = args.recipe == Some(RecipeKind::Command);
    let has_machine = matches!(args.recipe, Some(RecipeKind::Script | RecipeKind::Kubeadm));
    if args.reimage && !has_machine {
        return Err(CliError::usage("--reimage belongs to the recipes script and kubeadm")
            .with_hint("add --recipe script or --recipe kubeadm"));
    }
    let calls = is_command || args.reimage;
    let way_out = "add --recipe command, or --reimage with --recipe script or kubeadm";
    if !args.argv.is_empty() && !calls {
        let error =
            CliError::usage("a program after -- belongs to the recipe command or to --reimage");
        return Err(error.with_hint(way_out));
    }
    if args.webhook.is_some() && !calls {
        let error = CliError::usage("--webhook belongs to the recipe command or to --reimage");
        return Err(error.with_hint(way_out));
    }
    if args.webhook.is_some() && !args.argv.is_empty() {
        return Err(CliError::usage("--webhook and a program after -- exclude each other"));
    }
    Ok(())
}

/// What is called: `argv` or `webhook`.
pub(super) fn hook(args: &SetMachines, io: &mut Io<'_>) -> Result<Value, CliError> {
    let Some(url) = &args.webhook else {
        if args.argv.is_empty() {
            let whose = if args.reimage { "--reimage" } else { "the recipe command" };
            let error = CliError::usage(format!("{whose} needs a program or --webhook URL"));
            return Err(
                error.with_hint("give the program at the end: -- /usr/local/bin/reset-node")
            );
        }
        return Ok(json!({ "argv": args.argv }));
    };
    let Some(path) = &args.webhook_secret else {
        let error = CliError::usage("--webhook needs --webhook-secret FILE: calls are signed");
        return Err(error.with_hint("make one with `openssl rand -base64 32 >FILE`"));
    };
    let secret = Secret::new(read_text(io, path)?);
    let mut webhook = json!({ "url": url, "secret": secret.expose().trim() });
    if let Some(path) = &args.webhook_ca {
        webhook["ca"] = Value::from(read_text(io, path)?);
    }
    Ok(json!({ "webhook": webhook }))
}

/// What reinstalls machines.
pub(super) fn reimage(args: &SetMachines, io: &mut Io<'_>) -> Result<Value, CliError> {
    let mut reimage = hook(args, io)?;
    for (key, limit) in
        [("limitSeconds", args.reimage_limit), ("returnLimitSeconds", args.return_limit)]
    {
        if let Some(limit) = limit {
            reimage[key] = Value::from(limit);
        }
    }
    if args.no_teardown {
        reimage["teardown"] = Value::from(false);
    }
    Ok(reimage)
}
