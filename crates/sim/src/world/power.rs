//! What befalls hosts from outside: reboots, dead machines, lost networks, changed keys and identities.

use super::{Task, World};
use crate::faults::HostTrouble;
use crate::history::Happened;
use evenkeel_engine::ids::NodeName;

impl World {
    /// The host goes down and comes up again by itself.
    pub fn reboot(&mut self, node: &NodeName) {
        self.coverage.reboots += 1;
        let (low, high) = self.tunables.reboot_ms;
        let kubelet = self.power_off(node);
        let boots = self.hosts.get(node).map_or(0, |host| host.boots);
        self.later_between(low, high, Task::HostUp(node.clone(), boots, kubelet));
    }

    /// The host goes down. Returns whether its kubelet was alive.
    pub fn power_off(&mut self, node: &NodeName) -> bool {
        self.cut_off(node);
        let kubelet = self.hosts.get(node).is_some_and(|host| host.kubelet_up);
        self.kubelet_stop(node);
        if let Some(host) = self.hosts.get_mut(node) {
            host.up = false;
            host.boots += 1;
        }
        self.happened(Happened::HostDown { node: node.clone() });
        kubelet
    }

    pub(super) fn host_up(&mut self, node: &NodeName, boots: u64, kubelet: bool) {
        let boot_id = self.rng.uuid();
        let Some(host) = self.hosts.get_mut(node).filter(|host| host.boots == boots) else {
            return;
        };
        host.up = true;
        host.boot_id = boot_id.into();
        self.happened(Happened::HostUp { node: node.clone() });
        if kubelet {
            self.kubelet_start(node);
        }
    }

    pub(super) fn host_trouble(&mut self, index: usize) {
        let Some((_, node, trouble)) = self.plan.hosts.get(index).cloned() else {
            return;
        };
        match trouble {
            HostTrouble::Unreachable { for_ms } => {
                let until = self.now.saturating_add(for_ms);
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.unreachable_until = until;
                }
                if for_ms != u64::MAX {
                    self.later(for_ms, Task::Reachable(node, until));
                }
            }
            HostTrouble::Reboot => self.reboot(&node),
            HostTrouble::Dead => {
                self.coverage.dead_hosts += 1;
                self.power_off(&node);
            }
            HostTrouble::Denies => self.host_change(&node, |host| host.denies = true),
            HostTrouble::OtherMachine => {
                let id = self.rng.uuid().replace('-', "");
                self.coverage.wrong_machines += 1;
                self.host_change(&node, |host| host.machine_id = id.into());
            }
            HostTrouble::RejoinsAnew => self.host_change(&node, |host| host.rejoins_anew = true),
        }
    }

    /// Changes a host in a way that its owner could.
    pub fn host_change(&mut self, node: &NodeName, change: impl FnOnce(&mut crate::hosts::Host)) {
        if let Some(host) = self.hosts.get_mut(node) {
            change(host);
        }
    }

    pub(super) fn reachable_again(&mut self, node: &NodeName, until: u64) {
        self.host_change(node, |host| {
            if host.unreachable_until == until {
                host.unreachable_until = 0;
            }
        });
    }
}
