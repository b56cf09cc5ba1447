//! From a brief to the host's order. Pure.

use super::brief::{Brief, Reach};
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
    id_at(order, stage)
}

/// The name of a part of an attempt.
pub(super) fn id_at(order: &HostOrder, stage: protocol::Stage) -> Result<OrderId, Fault> {
    OrderId::new(order.job.as_str(), order.target.node_id.as_str(), order.attempt, stage).map_err(
        |source| Fault::Permanent {
            what: "the order cannot be named".into(),
            source: Some(Box::new(source)),
        },
    )
}

/// What of the stage runs on the host. Blank commands and absent scripts are no steps.
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
        Recipe::Script { teardown, install, limit_s, resume, .. } => {
            Some((teardown, install, u64::from(*limit_s), *resume))
        }
        Recipe::Kubeadm(_) | Recipe::Command { .. } | Recipe::None => None,
    };
    if let Some((teardown, _, limit_s, resume)) = around
        && !teardown.trim().is_empty()
    {
        steps.push(Step::teardown(teardown.as_str(), limit_s).resuming(resume));
    }
    if let (true, Some(reach)) = (template.login.is_wanted(), &brief.reach) {
        steps.push(Step::Login(login_order(brief, reach)?));
    }
    if let Some(script) = &template.pre_install_b64 {
        steps.push(Step::pre_install(hidden(script)));
    }
    if let Some((_, install, limit_s, resume)) = around
        && !install.trim().is_empty()
    {
        steps.push(Step::install(install.as_str(), limit_s).resuming(resume));
    }
    Ok(steps)
}

/// The order for a host.
pub(super) fn build(order: &HostOrder, id: &OrderId, steps: Vec<Step>) -> Result<Order, Fault> {
    let target = &order.target;
    let Some(machine_id) = target.machine_id.as_deref().filter(|id| !id.trim().is_empty()) else {
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
                // A kubelet on a machine without DMI reports the machine id once more.
                .filter(|u| !u.is_empty() && !u.eq_ignore_ascii_case(machine_id))
                .map(Into::into),
        },
        steps,
    };
    built.check().map_err(|source| Fault::Permanent {
        what: format!("node {}: the order makes no sense, nothing was run", target.node),
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

fn login_order(brief: &Brief, reach: &Reach) -> Result<LoginOrder, Fault> {
    let login = &brief.template.login;
    let whose = |user: &Option<String>| user.as_deref().map(login_user).transpose();
    Ok(LoginOrder {
        user: login_user(&login.user)?,
        password_hash: login.password_hash.as_ref().map(hidden),
        remove_password: whose(&login.remove_password)?,
        authorized_keys: login.authorized_keys.clone(),
        remove_keys: whose(&login.remove_keys)?,
        keep_key: reach.own_key().map(str::to_owned),
    })
}

fn hidden(secret: &SecretString) -> Hidden {
    Hidden::from(secret.expose_secret())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::machines::{ClearLogin, ClearTemplate, SshAccess};
    use crate::records::Hook;
    use crate::sync::ports::Target;
    use std::collections::BTreeMap;

    fn brief(recipe: Recipe) -> Brief {
        Brief {
            recipe,
            reach: Some(Reach::Ssh(SshAccess {
                address: "h".into(),
                port: 22,
                user: "root".into(),
                sudo: false,
                private_key: SecretString::from("canary-key"),
                public_key: "ssh-ed25519 AAAA c\n".into(),
                host_key: None,
                host_cas: Vec::new(),
                names: Vec::new(),
            })),
            template: ClearTemplate {
                pre_install_b64: Some(SecretString::from("canary-pre")),
                post_install_b64: Some(SecretString::from("canary-post")),
                login: ClearLogin {
                    user: "root".into(),
                    password_hash: Some(SecretString::from("canary-hash")),
                    ..ClearLogin::default()
                },
                ..ClearTemplate::default()
            },
            joiner: None,
            epoch: None,
            reinstalled: None,
            facts_env: BTreeMap::new(),
        }
    }

    fn script(teardown: &str) -> Recipe {
        Recipe::Script {
            teardown: teardown.into(),
            install: "canary-install".into(),
            limit_s: 5,
            needs: vec![],
            reimage: None,
            resume: false,
        }
    }

    fn names(brief: &Brief, stage: Stage) -> Vec<&'static str> {
        steps(brief, stage).unwrap().iter().map(Step::name).collect()
    }

    #[test]
    fn steps_come_in_the_order_of_a_reset() {
        let full = ["teardown", "login", "pre_install", "install"];
        assert_eq!(names(&brief(script("down")), Stage::Reset), full);
        assert_eq!(names(&brief(script(" \n")), Stage::Reset), full[1..]);
        assert_eq!(names(&brief(script("down")), Stage::Post), ["post_install"]);
        let command = Recipe::Command { hook: Hook::Program { argv: vec![] }, limit_s: 5 };
        assert_eq!(names(&brief(command), Stage::Reset), ["login", "pre_install"]);
        let mut bare = brief(script("down"));
        bare.template = ClearTemplate::default();
        assert_eq!(names(&bare, Stage::Reset), ["teardown", "install"]);
        assert!(steps(&bare, Stage::Post).unwrap().is_empty());
    }

    #[test]
    fn the_controllers_own_key_is_always_kept() {
        let steps = steps(&brief(script("down")), Stage::Reset).unwrap();
        let Step::Login(login) = &steps[1] else { panic!("{steps:?}") };
        assert_eq!(login.keep_key.as_deref(), Some("ssh-ed25519 AAAA c"));
    }

    #[test]
    fn nothing_of_a_brief_shows_its_secrets() {
        let brief = brief(script("canary-teardown"));
        let shown = format!("{brief:?} {:?}", steps(&brief, Stage::Reset).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn an_order_without_an_identity_is_never_built() {
        let target = Target {
            node_id: "n".into(),
            node: "worker-1".into(),
            internal_ip: None,
            machine_id: Some(" ".into()),
            system_uuid: None,
        };
        let mut order =
            HostOrder { job: "j".into(), target, attempt: 1, stage: Stage::Reset, epoch: 1 };
        let id = id(&order).unwrap();
        let step = || vec![Step::install("true", 5)];
        assert!(build(&order, &id, step()).is_err());
        order.target.machine_id = Some("m".into());
        order.target.system_uuid = Some("".into());
        let built = build(&order, &id, step()).unwrap();
        assert_eq!(built.machine.product_uuid, None);
        assert!(build(&order, &id, vec![Step::install("true", 0)]).is_err());
    }
}
