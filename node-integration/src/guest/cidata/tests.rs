use std::io::Read as _;

use super::*;

fn content() -> Content {
    Content {
        hostname: "vm1".into(),
        instance_id: "26-1234-vm1".into(),
        ssh_keys: split_keys("ssh-ed25519 AAAA one\nssh-ed25519 BBBB \"two\",\n , "),
        name_servers: vec![
            "8.8.8.8".parse().unwrap(),
            "2001:4860:4860::8888".parse().unwrap(),
        ],
        interfaces: vec![
            Interface {
                mac: "52:54:00:00:00:01".parse().unwrap(),
                addresses: vec![("10.20.2.2".parse().unwrap(), 24)],
                routes: Vec::new(),
                gateway4: Some(Ipv4Addr::new(10, 20, 2, 1)),
                gateway6: None,
            },
            Interface {
                mac: "d2:e0:f7:d6:32:8d".parse().unwrap(),
                addresses: vec![(
                    "430:9364:d8d8:84a9:ff0f:b60f:2b7e:c39c".parse().unwrap(),
                    64,
                )],
                routes: vec![(
                    "400::".parse().unwrap(),
                    7,
                    "430:9364:d8d8:84a9::1".parse().unwrap(),
                )],
                gateway4: None,
                gateway6: None,
            },
        ],
        ..Content::default()
    }
}

fn read(image: &[u8], name: &str) -> Option<String> {
    let volume = FileSystem::new(Cursor::new(image.to_vec()), FsOptions::new()).unwrap();
    assert_eq!(
        volume.read_volume_label_from_root_dir().unwrap(),
        Some("cidata".to_owned())
    );
    assert_eq!(volume.volume_label(), "cidata");
    let mut text = String::new();
    volume
        .root_dir()
        .open_file(name)
        .ok()?
        .read_to_string(&mut text)
        .unwrap();
    Some(text)
}

#[test]
fn disk_says_what_zero_os_says() {
    let image = image(&content()).unwrap();
    assert_eq!(image.len(), STEP);
    assert_eq!(
        read(&image, "meta-data").unwrap(),
        "instance-id: \"26-1234-vm1\"\nlocal-hostname: \"vm1\"\n"
    );
    assert_eq!(
        read(&image, "network-config").unwrap(),
        r#"version: 2
ethernets:
  eth0:
    match:
      macaddress: "52:54:00:00:00:01"
    dhcp4: false
    addresses:
      - "10.20.2.2/24"
    gateway4: "10.20.2.1"
    nameservers:
      addresses:
        - "8.8.8.8"
        - "2001:4860:4860::8888"
  eth1:
    match:
      macaddress: "d2:e0:f7:d6:32:8d"
    dhcp4: false
    addresses:
      - "430:9364:d8d8:84a9:ff0f:b60f:2b7e:c39c/64"
    routes:
      - to: "400::/7"
        via: "430:9364:d8d8:84a9::1"
"#
    );
    assert_eq!(
        read(&image, "user-data").unwrap(),
        r#"#cloud-config
disable_root: false
users:
  - name: root
    ssh_authorized_keys:
      - "ssh-ed25519 AAAA one"
      - "ssh-ed25519 BBBB \"two\""
"#
    );
    assert_eq!(read(&image, "zosrc"), None);
}

#[test]
fn same_content_gives_the_same_bytes() {
    assert_eq!(image(&content()).unwrap(), image(&content()).unwrap());
}

#[test]
fn variables_are_quoted_for_the_shell() {
    let environment = BTreeMap::from([
        ("A".to_owned(), "it's $HOME".to_owned()),
        ("SSH_KEY".to_owned(), "ssh-ed25519 AAAA".to_owned()),
    ]);
    let image = image(&Content {
        environment,
        ..content()
    })
    .unwrap();
    assert_eq!(
        read(&image, "zosrc").unwrap(),
        "export A='it'\\''s $HOME'\nexport SSH_KEY='ssh-ed25519 AAAA'\n"
    );
}

#[test]
fn large_user_data_fits_and_what_is_larger_is_refused() {
    for size in [STEP / 2, STEP, LARGEST - 1000] {
        let text = "x".repeat(size);
        let image = image(&Content {
            user_data: Some(text.clone()),
            ..content()
        })
        .unwrap();
        assert_eq!(read(&image, "user-data").unwrap(), text);
    }
    let refused = image(&Content {
        user_data: Some("x".repeat(LARGEST)),
        ..content()
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_would_break_out_of_its_line_is_refused() {
    let refused = |content: &Content| {
        assert_eq!(
            image(content).unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{content:?}"
        );
    };
    for bad in ["", "a\nb", "a\tb", "\u{85}"] {
        refused(&Content {
            hostname: bad.into(),
            ..content()
        });
        refused(&Content {
            instance_id: bad.into(),
            ..content()
        });
        refused(&Content {
            ssh_keys: vec![bad.into()],
            ..content()
        });
    }
    for bad in ["", "1A", "A B", "A;B", "é"] {
        refused(&Content {
            environment: BTreeMap::from([(bad.to_owned(), String::new())]),
            ..content()
        });
    }
}
