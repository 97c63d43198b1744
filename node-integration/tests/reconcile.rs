//! Networks and attachments in the kernel, from a directory of descriptions and back to nothing. They need root's
//! rights over namespaces; without them each test says so.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{key, on_a_host, ping, settles, state};
use node_integration::desired::{AttachmentSpec, Kind, Masquerade, NetworkSpec};
use node_integration::object::{Object, Place};
use node_integration::reconcile::{Entry, NoNode, ReconcileError};
use node_integration::secret::Seed;
use node_integration::{Namespace, link, named, object};

#[test]
fn a_network_and_its_attachments_come_and_go() {
    on_a_host(|host| {
        let before = state();
        let directory = host.directory();
        let mut spec = NetworkSpec::with_key(key(7));
        spec.masquerade = Some(Masquerade { pair: 0 });
        let network = directory
            .save_network(&"net".parse().unwrap(), &spec)
            .unwrap();
        let mut addresses = Vec::new();
        for (number, kind) in [Kind::Netns, Kind::Netns, Kind::Tap, Kind::Host]
            .into_iter()
            .enumerate()
        {
            let mut spec = AttachmentSpec::of_kind(kind);
            spec.allow = vec!["icmp".parse().unwrap()];
            spec.ipv4 = Some(number.try_into().unwrap());
            if number == 1 {
                spec.allow.clear();
            }
            let name = format!("w{number}").parse().unwrap();
            let attachment = directory.save_attachment(&network, &name, &spec).unwrap();
            addresses.push(attachment.address);
        }
        assert!(host.reconcile() > 40);
        assert_eq!(host.reconcile(), 0, "a second time there is nothing to do");

        let first = named::open("net-w0").unwrap();
        let second = named::open("net-w1").unwrap();
        assert!(ping(&first, network.gateway()), "the gateway answers");
        assert!(ping(&second, addresses[0]), "allowed");
        assert!(!ping(&first, addresses[1]), "not allowed");
        let port = network.spec.profile.attachment("net/w1", "net").port;
        let counters = host
            .open()
            .kernel()
            .network_counters(&network.names.namespace)
            .unwrap();
        assert_eq!(counters[&format!("{port} refused")].packets, 1);
        assert!(
            ping(&Namespace::current().unwrap(), addresses[0]),
            "from the host"
        );

        directory
            .remove_attachment(&network.name, &"w1".parse().unwrap())
            .unwrap();
        host.reconcile();
        assert!(!named::list().unwrap().contains(&"net-w1".to_owned()));
        assert!(ping(&named::open("net-w0").unwrap(), network.gateway()));
        drop((first, second));

        directory.remove_network(&network.name).unwrap();
        host.reconcile();
        settles(&before, "");
        assert_eq!(host.open().entries().unwrap(), []);
        let left = std::fs::read_dir(host.scratch.path().join("net.d")).unwrap();
        assert_eq!(left.count(), 0);
    });
}

#[test]
fn what_has_drifted_is_repaired_and_the_rest_stays_as_it_is() {
    on_a_host(|host| {
        let directory = host.directory();
        let spec = NetworkSpec::with_key(key(7));
        let network = directory
            .save_network(&"net".parse().unwrap(), &spec)
            .unwrap();
        for name in ["a", "b"] {
            let mut spec = AttachmentSpec::of_kind(Kind::Netns);
            spec.allow = vec!["icmp".parse().unwrap()];
            directory
                .save_attachment(&network, &name.parse().unwrap(), &spec)
                .unwrap();
        }
        host.reconcile();
        let (attachments, _) = directory.attachments(&network).unwrap();
        let [a, b] = attachments.as_slice() else {
            panic!("two attachments");
        };
        let current = Namespace::current().unwrap();
        let index = |name: &str| link::index(&current, name).unwrap();
        let before = (index(&a.names.port), index(&b.names.port));

        // An address, a whole interface, the filter's table by its namespace: each is missed.
        let routed = named::open(&network.names.namespace).unwrap();
        link::remove_address(&routed, "gateway", network.gateway().into(), 128).unwrap();
        link::delete(&current, &a.names.port).unwrap();
        link::set_mtu(&current, &b.names.port, 1300).unwrap();
        assert!(host.reconcile() > 0);
        assert_eq!(host.reconcile(), 0);
        let after = (index(&a.names.port), index(&b.names.port));
        assert_ne!(before.0, after.0, "this one was made anew");
        assert_eq!(before.1, after.1, "this one was not touched");
        let inside = named::open("net-a").unwrap();
        assert!(ping(&inside, b.address));
        assert!(ping(&inside, network.gateway()));

        // Nothing of the network is left, as after an `ip netns del`.
        named::delete(&network.names.namespace).unwrap();
        drop(routed);
        assert!(host.reconcile() > 20);
        assert_eq!(host.reconcile(), 0);
        assert!(ping(&inside, b.address));
    });
}

#[test]
fn strangers_are_refused_and_left_alone() {
    on_a_host(|host| {
        let directory = host.directory();
        let network = directory
            .save_network(&"net".parse().unwrap(), &NetworkSpec::with_key(key(7)))
            .unwrap();
        let current = Namespace::current().unwrap();
        link::bridge(&current, &network.names.bridge).unwrap();
        let before = state();
        let entry = Entry::Network(network.name.clone());
        let objects = object::network(&network);
        let error = host
            .open()
            .apply(&entry, &objects, &mut NoNode)
            .unwrap_err();
        assert!(matches!(error, ReconcileError::Stranger(_)), "{error}");
        assert_eq!(
            error.to_string(),
            "bridge m-net of the host is there already and is not ours: remove it, or choose another name or seed"
        );
        settles(&before, "nothing was made");
        assert_eq!(host.open().entries().unwrap(), []);
    });
}

#[test]
fn an_entry_that_fails_leaves_nothing_half_made() {
    on_a_host(|host| {
        let directory = host.directory();
        let network = directory
            .save_network(&"net".parse().unwrap(), &NetworkSpec::with_key(key(7)))
            .unwrap();
        host.reconcile();
        let before = state();
        // The interface inside is there already: the kernel refuses when the cable is made.
        let inside = named::create("box").unwrap();
        link::bridge(&inside, "eth0").unwrap();
        let mut spec = AttachmentSpec::of_kind(Kind::Veth);
        spec.netns = Some("box".into());
        let attachment = directory
            .save_attachment(&network, &"w".parse().unwrap(), &spec)
            .unwrap();
        let entry = node_integration::reconcile::entry_of(&network, &attachment);
        let objects = object::attachment(&network, &attachment);
        let error = host
            .open()
            .apply(&entry, &objects, &mut NoNode)
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exists"), "{text}");
        named::delete("box").unwrap();
        settles(&before, "");

        // A bridge that is missing, likewise.
        link::delete(&Namespace::current().unwrap(), &network.names.bridge).unwrap();
        let spec = AttachmentSpec::of_kind(Kind::Tap);
        let attachment = directory
            .save_attachment(&network, &"v".parse().unwrap(), &spec)
            .unwrap();
        let entry = node_integration::reconcile::entry_of(&network, &attachment);
        let objects = object::attachment(&network, &attachment);
        let error = host
            .open()
            .apply(&entry, &objects, &mut NoNode)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no interface m-net"), "{error}");
        assert!(!state().contains(&attachment.names.port));
    });
}

#[test]
fn the_same_seed_twice_is_refused() {
    on_a_host(|host| {
        let directory = host.directory();
        let network = directory
            .save_network(&"net".parse().unwrap(), &NetworkSpec::with_key(key(7)))
            .unwrap();
        host.reconcile();
        let mut outcomes = Vec::new();
        for name in ["a", "b"] {
            let mut spec = AttachmentSpec::of_kind(Kind::Tap);
            spec.seed = Some(Seed::new([1, 2, 3, 4, 5, 6]).unwrap());
            let attachment = directory
                .save_attachment(&network, &name.parse().unwrap(), &spec)
                .unwrap();
            let entry = node_integration::reconcile::entry_of(&network, &attachment);
            let objects = object::attachment(&network, &attachment);
            outcomes.push(host.open().apply(&entry, &objects, &mut NoNode));
        }
        outcomes[0].as_ref().unwrap();
        let error = outcomes[1].as_ref().unwrap_err().to_string();
        assert!(
            error.starts_with("neighbour ") && error.contains("is not ours"),
            "{error}"
        );
        let (good, bad) = directory.attachments(&network).unwrap();
        assert_eq!((good.len(), bad.len()), (1, 1));
        assert!(bad[0].1.to_string().contains("give one another seed"));
    });
}

#[test]
fn a_crash_at_any_step_is_recovered_from() {
    on_a_host(|host| {
        let before = state();
        let directory = host.directory();
        let network = directory
            .save_network(&"net".parse().unwrap(), &NetworkSpec::with_key(key(7)))
            .unwrap();
        let entry = Entry::Network(network.name.clone());
        let objects = object::network(&network);
        // A note of everything, and a kernel that has a part of it: what a crash leaves.
        for made in [1, 4, 8, 12, 15] {
            host.open().apply(&entry, &objects, &mut NoNode).unwrap();
            let mut reconciler = host.open();
            for object in objects[made..].iter().rev() {
                let is_container = matches!(object, Object::Namespace { .. } | Object::Link(_));
                let is_host_setting = matches!(
                    object,
                    Object::Setting {
                        place: Place::Host,
                        ..
                    }
                );
                if is_container || !is_host_setting {
                    let step = node_integration::plan::Step::Remove(object.clone());
                    reconciler.kernel().execute(&step).unwrap();
                }
            }
            drop(reconciler);
            assert!(host.reconcile() > 0, "{made}");
            assert_eq!(host.reconcile(), 0, "{made}");
            host.open().apply(&entry, &[], &mut NoNode).unwrap();
            settles(&before, &made.to_string());
        }
    });
}
