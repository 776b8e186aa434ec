//! What the tests are made of: a running Meridian, web servers to break, questions, and waiting.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take: far longer than it does, so that a slow machine fails no test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
pub(crate) fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, condition)
}

/// The same, for as long as is told.
#[expect(clippy::disallowed_methods, reason = "the tests' deadline")]
pub(crate) fn wait_within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// Waits until what `look` sees is `expected`.
pub(crate) fn wait_until<T: PartialEq + Debug>(expected: &T, mut look: impl FnMut() -> T) {
    let mut seen = None;
    wait_for(&format!("{expected:?}"), || {
        let now = look();
        let is_there = now == *expected;
        if seen.as_ref() != Some(&now) {
            println!("seen: {now:?}");
            seen = Some(now);
        }
        is_there.then_some(())
    });
}

/// An address in 127.0.0.0/8 that no other test of this process has.
pub(crate) fn own_address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    IpAddr::from([127, 77, high, low])
}

/// A port that is free on all addresses for the moment, and that no other test of this process was
/// given: who binds it does so later. The kernel gives it to nobody meanwhile, as its own ones are
/// higher.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    wait_for("a port", || {
        let (ours, next) = (std::process::id() % 10_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + (u16::try_from(ours).unwrap() + next) % 20_000;
        let all = ("0.0.0.0", port);
        (TcpListener::bind(all).is_ok() && UdpSocket::bind(all).is_ok()).then_some(port)
    })
}

/// A child process, ended when it is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let program = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{program:?}: {error}; `tests/run` installs it")))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal: `STOP`, `CONT`, `HUP`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Ends it at once, as the kernel does when memory runs out.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// What the program prints for these arguments.
pub(crate) fn meridian(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meridian")).args(arguments).output().unwrap()
}

/// A running Meridian with a folder of its own.
pub(crate) struct Meridian {
    pub(crate) process: Process,
    pub(crate) folder: TempDir,
    pub(crate) dns: SocketAddr,
    pub(crate) dot: Option<SocketAddr>,
    pub(crate) doh: Option<SocketAddr>,
    pub(crate) doq: Option<SocketAddr>,
    pub(crate) http: SocketAddr,
    logs: Arc<Mutex<Vec<Value>>>,
}

impl Meridian {
    /// Serves `config` on ports of its own: `node` and `http` are put before it.
    pub(crate) fn serve(config: &str) -> Self {
        Self::serve_in(tempfile::tempdir().unwrap(), config)
    }

    /// The same, with the files that are in `folder`.
    pub(crate) fn serve_in(folder: TempDir, config: &str) -> Self {
        Self::start(folder, &format!("{NODE}{config}"))
    }

    /// Serves exactly `config`.
    pub(crate) fn start(folder: TempDir, config: &str) -> Self {
        Self::start_with(Command::new(env!("CARGO_BIN_EXE_meridian")), folder, config)
    }

    /// The same with a clock that is wrong by as much, such as `+1h`.
    pub(crate) fn start_at(skew: &str, folder: TempDir, config: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1").env("FAKETIME", skew);
        // Spans of time are what they are: only the time of day is wrong.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        Self::start_with(command, folder, config)
    }

    /// The same with a program that starts it.
    pub(crate) fn start_with(command: Command, folder: TempDir, config: &str) -> Self {
        std::fs::write(folder.path().join("meridian.yaml"), config).unwrap();
        Self::run_in(command, folder, &[])
    }

    fn run_in(mut command: Command, folder: TempDir, options: &[&str]) -> Self {
        let file = folder.path().join("meridian.yaml");
        command.arg("serve").arg("--config").arg(&file).args(options).stderr(Stdio::piped());
        let mut process = Process::start(&mut command);
        let errors = process.0.stderr.take().unwrap();
        let logs: Arc<Mutex<Vec<Value>>> = Arc::default();
        let writer = logs.clone();
        thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                println!("meridian: {line}");
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                writer.lock().unwrap().push(line);
            }
        });
        let ready = wait_for("ready", || {
            assert!(process.ended().is_none(), "it ended");
            let logs = logs.lock().unwrap();
            logs.iter().find(|line| line["message"] == "ready").cloned()
        });
        let first = |key: &str| ready[key].as_str()?.split(", ").next()?.parse().ok();
        let (dns, http) = (first("dns").unwrap(), first("http").unwrap());
        let (dot, doh, doq) = (first("dot"), first("doh"), first("doq"));
        Self { process, folder, dns, dot, doh, doq, http, logs }
    }

    /// Changes the configuration file, all at once as an editor does.
    pub(crate) fn write_config(&self, config: &str) {
        self.write("meridian.yaml", format!("{NODE}{config}").as_bytes());
    }

    pub(crate) fn write(&self, file: &str, content: &[u8]) {
        let aside = self.path("aside");
        std::fs::write(&aside, content).unwrap();
        std::fs::rename(aside, self.path(file)).unwrap();
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// What the HTTP address says.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let output = Command::new("curl")
            .args(["-s", "-m", "10", "-w", "\n%{http_code}", &self.url(path)])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// What `meridian ctl` prints for these arguments, over the Unix socket, and whether it went
    /// well.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> (bool, String) {
        let socket = self.path("ctl.sock");
        let mut all = vec!["ctl", "--socket", socket.to_str().unwrap()];
        all.extend(arguments);
        let Output { status, stdout, stderr } = meridian(&all);
        let text = [stdout, stderr].concat();
        (status.success(), String::from_utf8(text).unwrap().trim_end().to_owned())
    }

    /// Another one takes its place, and it ends by itself.
    pub(crate) fn replaced(self) -> Self {
        self.replaced_by(Command::new(env!("CARGO_BIN_EXE_meridian")))
    }

    /// The same with another program than the one in the path, or elsewhere.
    pub(crate) fn replaced_by(self, next: Command) -> Self {
        let Self { mut process, folder, .. } = self;
        let next = Self::run_in(next, folder, &["--replace"]);
        let status = wait_for("the end of the one before", || process.ended());
        assert!(status.success(), "{status}");
        next
    }

    /// Ends it at once, as a power cut does, and starts it anew.
    pub(crate) fn restart(self) -> Self {
        let Self { mut process, folder, .. } = self;
        process.kill();
        let config = std::fs::read_to_string(folder.path().join("meridian.yaml")).unwrap();
        Self::start(folder, &config)
    }

    /// The same with another configuration.
    pub(crate) fn restart_with(self, config: &str) -> Self {
        let Self { mut process, folder, .. } = self;
        process.kill();
        Self::start(folder, config)
    }

    pub(crate) fn status(&self) -> Value {
        let (code, body) = self.get("/api/v1/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The value of a metric, with its labels as Prometheus prints them; 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(n, _)| n == name));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    /// State and last result of the endpoint with this address.
    pub(crate) fn endpoint(&self, address: IpAddr) -> (String, String) {
        let status = self.status();
        let services = status["services"].as_array().unwrap().iter();
        let mut endpoints = services.flat_map(|of| of["endpoints"].as_array().unwrap());
        let found = endpoints.find(|of| of["address"] == address.to_string()).unwrap();
        let text = |key: &str| found[key].as_str().unwrap_or("").to_owned();
        (text("state"), text("last"))
    }

    /// What it is told to look like is what its endpoint looks like: state and last result.
    pub(crate) fn wait_for_endpoint(&self, address: IpAddr, state: &str, last: &str) {
        wait_until(&(state.to_owned(), last.to_owned()), || self.endpoint(address));
    }

    /// The addresses that are answered for a name.
    pub(crate) fn addresses(&self, name: &str) -> Vec<String> {
        data(&ask(self.dns, name, RecordType::A, None))
    }

    /// The same for a client behind the resolver.
    pub(crate) fn addresses_for(&self, name: &str, client: &str) -> Vec<String> {
        data(&ask(self.dns, name, RecordType::A, Some(client)))
    }

    /// How many lines like this were logged.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.logs.lock().unwrap().iter().filter(|line| line.to_string().contains(text)).count()
    }

    /// The memory that it has, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        self.memory_as("VmRSS:")
    }

    /// The same without its code and its files.
    pub(crate) fn own_memory(&self) -> u64 {
        self.memory_as("RssAnon:")
    }

    fn memory_as(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// Where the tests' servers listen.
pub(crate) const NODE: &str = "node: { name: test, listen: \"127.0.0.1:0\", state: state }\n\
                    http: { listen: \"127.0.0.1:0\", socket: ctl.sock }\n";

/// A service whose states are pushed.
pub(crate) const PUSHED: &str = "regions: { us: {}, eu: {} }
checks: { told: { pushed: true } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
  web: { names: [www.example.com], check: told, regions: { us: 192.0.2.1, eu: 192.0.2.2 } }
";

/// The scope in an answer for a client in a /24.
pub(crate) fn scope(answer: &Message) -> u8 {
    let edns = answer.edns.as_ref().unwrap();
    let subnet: Vec<u8> = edns.option(EdnsCode::Subnet).unwrap().try_into().unwrap();
    assert_eq!(subnet[2], 24, "the source comes back");
    subnet[3]
}

/// A question in a message.
pub(crate) fn question(name: &str, rtype: RecordType, client: Option<&str>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    if let Some(client) = client {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns.options_mut().insert(EdnsOption::Subnet(client.parse().unwrap()));
        message.set_edns(edns);
    }
    message
}

/// A socket that speaks with `server`.
fn connected(server: SocketAddr) -> UdpSocket {
    let local = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(server).unwrap();
    socket
}

/// Asks over UDP, as often as it takes.
pub(crate) fn ask(
    server: SocketAddr,
    name: &str,
    rtype: RecordType,
    client: Option<&str>,
) -> Message {
    let message = question(name, rtype, client);
    let wire = message.to_vec().unwrap();
    let socket = connected(server);
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 4096];
    wait_for("an answer", || {
        socket.send(&wire).ok()?;
        let length = socket.recv(&mut buffer).ok()?;
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        (answer.metadata.id == message.metadata.id).then_some(answer)
    })
}

/// Somebody who asks for one name again and again, and never twice for one answer.
pub(crate) struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, usize, BTreeSet<String>)>,
}

impl Asking {
    /// Asks over UDP from now on.
    pub(crate) fn over_udp(server: SocketAddr, name: &'static str) -> Self {
        Self::over_udp_for(server, name, None)
    }

    /// The same for a client.
    pub(crate) fn over_udp_for(
        server: SocketAddr,
        name: &'static str,
        client: Option<&'static str>,
    ) -> Self {
        let socket = connected(server);
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self::start(name, client, move |wire| {
            let mut buffer = vec![0; 512];
            socket.send(wire)?;
            let length = socket.recv(&mut buffer)?;
            buffer.truncate(length);
            Ok(buffer)
        })
    }

    /// The same over TCP, with a connection a question.
    pub(crate) fn over_tcp(server: SocketAddr, name: &'static str) -> Self {
        Self::start(name, None, move |wire| {
            let mut stream = TcpStream::connect(server)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(&u16::try_from(wire.len()).unwrap().to_be_bytes())?;
            stream.write_all(wire)?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut buffer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut buffer)?;
            Ok(buffer)
        })
    }

    fn start(
        name: &'static str,
        client: Option<&'static str>,
        mut exchange: impl FnMut(&[u8]) -> io::Result<Vec<u8>> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let (mut asked, mut lost, mut seen) = (0, 0, BTreeSet::new());
            while !stopped.load(Ordering::Relaxed) {
                let wire = question(name, RecordType::A, client).to_vec().unwrap();
                let answer = exchange(&wire).map(|answer| Message::from_vec(&answer).unwrap());
                asked += 1;
                let one = answer.as_ref().ok().map(data).filter(|answer| answer.len() == 1);
                match one {
                    Some(answer) => seen.extend(answer),
                    None => {
                        println!("lost: {answer:?}");
                        lost += 1;
                    }
                }
            }
            (asked, lost, seen)
        });
        Self { stop, thread }
    }

    /// How many questions were asked, of which all have had an answer with one record.
    pub(crate) fn none_lost(self) -> usize {
        self.answers().0
    }

    /// The same, and what the records were.
    pub(crate) fn answers(self) -> (usize, BTreeSet<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let (asked, lost, seen) = self.thread.join().unwrap();
        assert_eq!(lost, 0, "of {asked}");
        (asked, seen)
    }
}

/// The data of the answer's records.
pub(crate) fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// nginx on an address of its own: answers `ok` at `/healthz` and its name everywhere else.
pub(crate) struct Nginx {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) process: Process,
    folder: TempDir,
}

impl Nginx {
    pub(crate) fn start(port: u16) -> Self {
        Self::with(own_address(), port, None)
    }

    /// The same at this address.
    pub(crate) fn at(address: IpAddr, port: u16) -> Self {
        Self::with(address, port, None)
    }

    /// The same over TLS, with a PEM certificate and its key.
    pub(crate) fn start_tls(port: u16, certificate: &str, key: &str) -> Self {
        Self::with(own_address(), port, Some((certificate, key)))
    }

    fn with(address: IpAddr, port: u16, tls: Option<(&str, &str)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let (ssl, certificate) = match tls {
            Some((certificate, key)) => {
                std::fs::write(folder.path().join("cert.pem"), certificate).unwrap();
                std::fs::write(folder.path().join("key.pem"), key).unwrap();
                let keys =
                    format!("ssl_certificate {path}/cert.pem; ssl_certificate_key {path}/key.pem;");
                (" ssl", keys)
            }
            None => ("", String::new()),
        };
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;
             events {{ worker_connections 512; }}
             http {{
               access_log off; client_body_temp_path {path}/a; proxy_temp_path {path}/b;
               fastcgi_temp_path {path}/c; uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;
               server {{
                 listen {address}:{port}{ssl}; {certificate} root {path};
                 location = /healthz {{
                   if (-f {path}/fail) {{ return 500; }}
                   return 200 \"ok\\n\";
                 }}
                 location = /guarded {{
                   set $told \"$request_method $http_x_probe $http_user_agent\";
                   if ($told != \"HEAD yes own/1\") {{ return 403; }}
                   return 200;
                 }}
                 location / {{ return 200 \"{address}\\n\"; }}
               }}
             }}"
        );
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let process = Self::run(folder.path());
        let nginx = Self { address, port, process, folder };
        nginx.wait();
        nginx
    }

    /// On every address of the host, with what ten thousand probes at two a second need.
    pub(crate) fn everywhere(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;
             worker_rlimit_nofile 60000;
             events {{ worker_connections 30000; multi_accept on; }}
             http {{ access_log off; server {{ listen 0.0.0.0:{port} backlog=65535;
               location / {{ return 200 ok; }} }} }}"
        );
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let process = Self::run(folder.path());
        let nginx = Self { address: IpAddr::from([127, 0, 0, 1]), port, process, folder };
        nginx.wait();
        nginx
    }

    fn run(folder: &Path) -> Process {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf"));
        // It says that it has no rights to its usual log, which it does not use.
        Process::start(command.stderr(Stdio::null()))
    }

    fn wait(&self) {
        let at = SocketAddr::new(self.address, self.port);
        wait_for("nginx", || TcpStream::connect(at).ok());
    }

    /// Runs it again after it was killed.
    pub(crate) fn restart(&mut self) {
        self.process = Self::run(self.folder.path());
        self.wait();
    }

    /// Lets it answer 500, or no longer.
    pub(crate) fn set_failing(&self, failing: bool) {
        let flag = self.folder.path().join("fail");
        if failing {
            std::fs::write(flag, "").unwrap();
        } else {
            std::fs::remove_file(flag).unwrap();
        }
    }
}
