//! As a service of a host: readiness, watchdog, signals, addresses that are taken.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use hickory_proto::rr::RecordType;

use crate::harness::{
    Meridian, PATIENCE, Process, ask, data, free_port, own_address, question, wait_for, wait_until,
};

const CONFIG: &str = "node: { listen: \"127.0.0.1:PORT\" }
http: off
regions: { here: {} }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services: { web: { names: [www.example.com], regions: { here: 192.0.2.1 } } }
";

#[test]
fn systemd_is_told_of_readiness_life_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let (file, notify) = (folder.path().join("meridian.yaml"), folder.path().join("notify"));
    std::fs::write(&file, CONFIG.replace("PORT", "0")).unwrap();
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = |wanted: &str| {
        let mut buffer = [0; 256];
        wait_for(wanted, || {
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).contains(wanted).then_some(())
        });
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.arg("serve").arg("--config").arg(&file).stderr(Stdio::null());
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "200000");
    let mut process = Process::start(&mut command);
    heard("READY=1");
    heard("WATCHDOG=1");
    heard("WATCHDOG=1");
    process.signal("TERM");
    heard("STOPPING=1");
    let status = wait_for("its end", || process.ended());
    assert!(status.success(), "{status}");
}

#[test]
fn systemd_waits_as_long_as_the_first_verdicts_may_take() {
    let folder = tempfile::tempdir().unwrap();
    let (file, notify) = (folder.path().join("meridian.yaml"), folder.path().join("notify"));
    // Nobody tells what is to be told: the whole time is waited for.
    let config = CONFIG
        .replace("\"127.0.0.1:PORT\"", "\"127.0.0.1:0\", ready_within: 1m")
        .replace("regions: { here: 192.0.2.1 }", "check: told, regions: { here: 192.0.2.1 }");
    std::fs::write(&file, config + "checks: { told: { pushed: true } }\n").unwrap();
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.arg("serve").arg("--config").arg(&file).stderr(Stdio::null());
    let _process = Process::start(command.env("NOTIFY_SOCKET", &notify));
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).unwrap();
    let told = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let micros = told.trim().strip_prefix("EXTEND_TIMEOUT_USEC=").map(str::parse::<u64>);
    assert!(micros.unwrap().unwrap() > 60_000_000, "{told}");
}

#[test]
fn an_address_that_is_taken_is_told_with_what_to_do() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meridian.yaml");
    std::fs::write(&file, CONFIG.replace("PORT", &port)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    let output = command.arg("serve").arg("--config").arg(&file).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains(&format!("cannot listen on 127.0.0.1:{port} (TCP)")), "{told}");
    assert!(told.contains("another server"), "{told}");
}

#[test]
fn queries_that_come_before_the_first_verdicts_wait_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meridian.yaml");
    let (port, http) = (free_port(), free_port());
    // A target that refuses has its verdict after three re-probes: three seconds here.
    let config = CONFIG
        .replace("PORT", &port.to_string())
        .replace("http: off", &format!("http: {{ listen: \"127.0.0.1:{http}\" }}"))
        .replace("regions: { here: 192.0.2.1 }", "check: web, regions: { here: 127.0.0.1 }");
    let check = "checks: { web: { tcp: 1, reprobe_gap: 1s } }\n";
    std::fs::write(&file, format!("{config}{check}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.arg("serve").arg("--config").arg(&file).stderr(Stdio::null());
    let _process = Process::start(&mut command);
    let curl = |path: &str, more: &[&str]| {
        let url = format!("http://127.0.0.1:{http}{path}");
        let output = Command::new("curl").arg("-s").args(more).arg(url).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let readiness = || curl("/readyz", &["-o", "/dev/null", "-w", "%{http_code}"]);
    let is_told = |line: &str| curl("/metrics", &[]).lines().any(|told| told == line);
    wait_for("its HTTP address", || (readiness() == "503").then_some(()));
    assert!(is_told("meridian_ready 0"), "an alert can only see what is there");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    let wire = question("www.example.com", RecordType::A, None).to_vec().unwrap();
    socket.send(&wire).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(socket.recv(&mut [0; 512]).is_err(), "an answer before the verdicts");
    wait_for("readiness", || (readiness() == "200").then_some(()));
    assert!(is_told("meridian_ready 1"));
    // What was asked then is answered now.
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(socket.recv(&mut [0; 512]).unwrap() > wire.len());
}

#[test]
fn a_socket_s_path_costs_nobody_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, base) = (folder.path().join("meridian.yaml"), folder.path().join("base.yaml"));
    let config = CONFIG.replace("PORT", "0");
    std::fs::write(&file, config.replace("http: off", "http: { socket: base.yaml }")).unwrap();
    std::fs::write(&base, "somebody's").unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.arg("serve").arg("--config").arg(&file);
    let mut process = Process::start(command.stderr(std::fs::File::create(&log).unwrap()));
    let status = wait_for("its end", || process.ended());
    let told = std::fs::read_to_string(&log).unwrap();
    assert_eq!(std::fs::read_to_string(&base).unwrap(), "somebody's");
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("http.socket: ") && told.contains("is no socket"), "{told}");

    // The socket where a server is replaced is its own folder's, and it serves without.
    let taken = folder.path().join("state/takeover.sock");
    std::fs::create_dir(folder.path().join("state")).unwrap();
    std::fs::write(&taken, "somebody's").unwrap();
    let server = Meridian::serve_in(folder, config.split_once("off\n").unwrap().1);
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "somebody's");
    assert_eq!(server.logged("is no socket"), 1);
}

#[test]
fn a_log_that_cannot_be_written_stops_no_failover() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meridian.yaml");
    let (dns, checked) = (free_port(), free_port());
    let (near, far) = (own_address(), own_address());
    let targets = [near, far].map(|at| TcpListener::bind((at, checked)).unwrap());
    let text = format!(
        "node: {{ listen: \"127.0.0.1:{dns}\" }}
http: off
regions: {{ near: {{}}, far: {{}} }}
checks: {{ web: {{ tcp: {checked} }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web:
    names: [www.example.com]
    check: web
    steer: failover
    order: [near, far]
    regions: {{ near: {near}, far: {far} }}
"
    );
    std::fs::write(&file, text).unwrap();
    // Whatever is written there finds a full disk.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    let mut process = Process::start(command.arg("serve").arg("--config").arg(&file).stderr(full));
    let server = SocketAddr::from(([127, 0, 0, 1], dns));
    let mut answered = || {
        assert!(process.ended().is_none(), "it ended");
        data(&ask(server, "www.example.com", RecordType::A, None))
    };
    wait_until(&vec![near.to_string()], &mut answered);
    let [ended, _stays] = targets;
    drop(ended);
    wait_until(&vec![far.to_string()], &mut answered);
}

/// A log driver on a slow disk, a terminal that was stopped.
#[test]
fn a_log_that_is_not_read_holds_nothing_up() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let config = CONFIG.replace("PORT", &port.to_string());
    std::fs::write(folder.path().join("meridian.yaml"), config).unwrap();
    let (_unread, mut pipe) = std::io::pipe().unwrap();
    // All that a pipe takes (pipe(7)).
    pipe.write_all(&[b'x'; 65_536]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.current_dir(folder.path()).args(["serve", "--config", "meridian.yaml"]).stderr(pipe);
    let mut server = Process::start(&mut command);
    let asked = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(data(&ask(asked, "www.example.com", RecordType::A, None)), ["192.0.2.1"]);
    server.signal("TERM");
    let ended = wait_for("its end", || server.ended());
    assert!(ended.success(), "{ended}");
}
