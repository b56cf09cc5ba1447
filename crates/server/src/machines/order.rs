//! From a brief to the host's order. Pure.

use super::brief::{Brief, SshAccess};
use crate::records::Recipe;
use crate::sync::ports::{Fault, HostOrder, Stage};
use evenkeel_node::protocol::{
    self, Hidden, LoginOrder, MachineIdentity, Order, OrderId, PROTOCOL, Step, UserName,
};
use secrecy::{ExposeSecret, SecretString};

/// The name of an order on the host and in the controller's journal.
pub(super) fn id(order: &HostOrder) -> Result<OrderId, Fault> {
    let stage = match order.stage {
        Stage::Reset => protocol::Stage::Reset,
        Stage::Post => protocol::Stage::Post,
    };
    OrderId::new(
        order.job.as_str(),
        order.target.node_id.as_str(),
        order.attempt,
        stage,
    )
    .map_err(|source| Fault::Permanent {
        what: "the order cannot be named".into(),
        source: Some(Box::new(source)),
    })
}

/// What of the stage runs on the host over SSH. Blank commands and absent scripts are no steps.
pub(super) fn steps(brief: &Brief, stage: Stage) -> Result<Vec<Step>, Fault> {
    let template = &brief.template;
    if stage == Stage::Post {
        return Ok(template
            .post_install_b64
            .iter()
            .map(|script| Step::post_install(hidden(script)))
            .collect());
    }
    let mut steps = Vec::new();
    let around = match &brief.recipe {
        Recipe::Script {
            teardown,
            install,
            limit_s,
            ..
        } => Some((teardown, install, u64::from(*limit_s))),
        Recipe::Command { .. } | Recipe::None => None,
    };
    if let Some((teardown, _, limit_s)) = around
        && !teardown.trim().is_empty()
    {
        steps.push(Step::teardown(teardown.as_str(), limit_s));
    }
    if let (true, Some(access)) = (template.login.is_wanted(), &brief.ssh) {
        steps.push(Step::Login(login_order(brief, access)?));
    }
    if let Some(script) = &template.pre_install_b64 {
        steps.push(Step::pre_install(hidden(script)));
    }
    if let Some((_, install, limit_s)) = around
        && !install.trim().is_empty()
    {
        steps.push(Step::install(install.as_str(), limit_s));
    }
    Ok(steps)
}

/// The order for a host.
pub(super) fn build(order: &HostOrder, id: &OrderId, steps: Vec<Step>) -> Result<Order, Fault> {
    let target = &order.target;
    let Some(machine_id) = target
        .machine_id
        .as_deref()
        .filter(|id| !id.trim().is_empty())
    else {
        return Err(Fault::permanent(format!(
            "node {}: its status reports no machineID, so its machine cannot be told from another; \
             nothing was run",
            target.node
        )));
    };
    let built = Order {
        protocol: PROTOCOL,
        id: id.clone(),
        epoch: order.epoch,
        machine: MachineIdentity {
            machine_id: machine_id.to_owned(),
            product_uuid: target
                .system_uuid
                .as_deref()
                .filter(|u| !u.is_empty())
                .map(Into::into),
        },
        steps,
    };
    built.check().map_err(|source| Fault::Permanent {
        what: format!(
            "node {}: the order makes no sense, nothing was run",
            target.node
        ),
        source: Some(Box::new(source)),
    })?;
    Ok(built)
}

/// The login of an order, if it sets one.
pub(super) fn login(order: &Order) -> Option<&LoginOrder> {
    order.steps.iter().find_map(|step| match step {
        Step::Login(login) => Some(login),
        _ => None,
    })
}

/// The login user as the host takes it.
pub(super) fn login_user(user: &str) -> Result<UserName, Fault> {
    user.parse().map_err(|source| Fault::Permanent {
        what: format!("the login user {user:?} is not a user name"),
        source: Some(Box::new(source)),
    })
}

fn login_order(brief: &Brief, access: &SshAccess) -> Result<LoginOrder, Fault> {
    let login = &brief.template.login;
    Ok(LoginOrder {
        user: login_user(&login.user)?,
        password_hash: login.password_hash.as_ref().map(hidden),
        remove_password: login.remove_password,
        authorized_keys: login.authorized_keys.clone(),
        remove_keys: login.remove_keys,
        keep_key: access.public_key.trim().to_owned(),
    })
}

fn hidden(secret: &SecretString) -> Hidden {
    Hidden::from(secret.expose_secret())
}
