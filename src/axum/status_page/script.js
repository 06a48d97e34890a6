
const EVERY = 1000, LONGEST_WAIT = 10_000, PATIENCE = 5000, LATELY = 5000;
// Seconds. The watch asks a server every 3 to 20 s, and more rarely one that does not answer.
const OLD = 30, GAP = 3;
const root = document.documentElement;
const $ = (selector, inside = document) => inside.querySelector(selector);
const sum = (counts) => Object.values(counts ?? {}).reduce((a, b) => a + b, 0);

// ---- Words

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const count = (n) => grouped.format(n);
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

function seconds(s) {
  if (s === 0) return "0 s";
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

const rate = (perSecond) => `${perSecond >= 10 ? count(Math.round(perSecond)) : count(perSecond)}/s`;

// Never rounded up to 100 %: that is what "full" looks like.
const percent = (ratio) => (ratio > 0 && ratio < 0.001 ? "< 0.1 %" : `${count(Math.floor(ratio * 1000 + 1e-6) / 10)} %`);

const FORMATS = {
  seconds, percent, rate,
  age: (s) => (s < 1 ? "now" : `${seconds(Math.floor(s)).replace(".0", "")}`),
};

function text(value, format) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  return format ? FORMATS[format](value) : count(value);
}

const CAUSES = {
  max_clients: "Redis is full",
  suspected_max_clients: "Redis seems to be full",
  denied: "Redis does not take connections from here",
  refused: "no Redis listens at that address",
  unreachable: "Redis cannot be reached",
  dns: "the name of the server does not resolve",
  timeout: "Redis does not answer",
  auth: "Redis does not accept the credentials",
  loading: "Redis is loading its data",
  wrong_role: "Redis there is a replica and should be a master, or the other way round",
  misconfigured: "the pool's settings do not fit this server",
  local_limit: "this process has no file or port left to connect with",
};
// Those whose failure is the server's own answer.
const ANSWERS = ["max_clients", "denied", "auth", "loading", "wrong_role", "misconfigured"];
const LIMITED_BY = {
  max_connections: "nobody: it is all this pool may have",
  refused: "the server: it refused one more",
  price_law: "the server's own pressure",
  fleet_lease: "the fleet: that is our share",
};
const LIMIT_SET = {
  max_connections: "nobody limits it any more",
  refused: "frozen, as the server refused one more",
  price_law: "by the server's pressure, the price law",
  fleet_lease: "by the fleet, our share",
};
const capitalised = (words) => words[0].toUpperCase() + words.slice(1);

// What was seen of a server is old where nobody can look any more, or nobody has for long.
const isOld = ({ live, watch: { age_seconds: age } }) => age != null && (age > OLD || (live === 0 && age >= 1));
const asOf = (server) => (isOld(server) ? ` (${FORMATS.age(server.watch.age_seconds)} ago)` : "");

// All that is worth saying, the worst first: { level, word, says }.
function findings(s) {
  // Of a cluster, what is said of a server is said of a node, in its own numbers, and first of the worst.
  const nodes = s.cluster?.nodes ?? [], servers = nodes.length > 0 ? nodes.map(({ status }) => status) : [s];
  const [worst] = servers, { breaker, watch } = worst, found = [];
  const say = (level, word, says) => found.push({ level, word, says });
  const of = (server, words) => (nodes.length === 0 ? capitalised(words) : `${server === worst ? "Worst node" : "Node"} ${server.server}: ${words}`);
  const live = (server) => `${count(server.live)} of ${plural(server.max_connections, "connection")} live`;
  const wait = breaker.next_dial_in_seconds, waits = wait >= 0.05;
  const failure = breaker.last_failure;
  const unplaced = s.sentinel?.trouble && failure?.server === s.sentinel.master;
  const cause = failure && (unplaced ? "no sentinel says where Redis is" : CAUSES[failure.outcome] ?? "Redis cannot be used");
  const words = failure?.message && !unplaced ? ` ${ANSWERS.includes(failure.outcome) ? "It says" : "The last dial"}: “${failure.message}”` : "";
  const heldOpen = breaker.forced && breaker.state === "open";
  const full = ["max_clients", "suspected_max_clients"].includes(failure?.outcome);
  const refused = s.refusals?.perSecond ?? 0;
  const down = servers.filter((server) => server.live === 0 && server.breaker.last_failure).length;
  const node = nodes.length > 0 && down < nodes.length ? "NODE " : "", isReplica = nodes[0]?.role === "replica";
  const callers = nodes.length === 0 ? "callers" : isReplica ? "reads from it" : "callers of its slots";

  if (s.closed) {
    say("warn", "CLOSED", `The pool is closed: this instance drains, ${plural(s.in_use, "lease")} to go.`);
  } else if (s.live === 0 && heldOpen) {
    say("bad", "HELD OPEN", "An operator holds the breaker open and nothing is live: every caller is refused.");
  } else if (worst.live === 0 && failure && !heldOpen) {
    const then = breaker.state === "half_open" ? `${callers} are refused while the next dial is in flight`
      : breaker.state === "open" && waits ? `${callers} are refused for ${seconds(wait)}, until the next dial`
      : waits ? `${callers} wait for the next dial, in ${seconds(wait)}` : "the next dial is due";
    const others = down > 1 ? ` Nor is anything live at ${plural(down - 1, "other node")}.` : "";
    say(isReplica ? "warn" : "bad", `${node}${full ? "FULL" : "DOWN"}`, of(worst, `nothing is live, ${cause}: ${then}.${words}${others}`));
  } else if (s.live === 0 && s.dialing > 0) {
    say("ok", "STARTING", "No connection is live yet, one is being dialed.");
  } else if (s.live === 0) {
    say("ok", "IDLE", "No connection is live: nobody has asked for one.");
  } else if (heldOpen) {
    const others = nodes.length > 0 ? ", and callers are refused at nodes that have none" : "";
    say("warn", "HELD OPEN", `An operator holds the breaker open: ${live(s)}, none is dialed${others}.`);
  } else if (failure) {
    const growth = waits ? `growth waits ${seconds(wait)}` : "the next dial is due";
    say(refused > 0 ? "bad" : "warn", full ? `${node}FULL` : "DIALS FAIL", of(worst, `${cause}: ${live(worst)}, ${growth}.${words}`));
  } else if (watch.saturation >= 1) {
    say("warn", `${node}FULL`, of(worst, `Redis is full: ${live(worst)}, no slot is free${asOf(worst)}.`));
  } else if (worst.limited_by === "refused") {
    say("warn", "LIMITED", of(worst, `Redis refused one more: ${live(worst)}, and no more until it has room.`));
  }
  if (breaker.forced && !heldOpen) {
    say("warn", "HELD CLOSED", "An operator holds the breaker closed: callers wait rather than being refused.");
  }
  if (refused > 0 && s.live > 0) {
    say("warn", "REFUSING", `Callers are refused, ${rate(refused)}: most at ${s.refusals.endpoint}, ${s.refusals.reason}.`);
  }
  if (s.leaks.length > 0) {
    const oldest = s.leaks[0];
    say("warn", "LEAK", `${plural(s.leaks.length, "lease looks", "leases look")} leaked, the longest unused for ${FORMATS.age(oldest.idle_seconds)} by ${oldest.endpoint}.`);
  }
  const still = servers.find((server) => server.watch.observation?.stands_still && !isOld(server));
  if (still) {
    say("bad", "FULL, NOT IDLE", of(still, `the server refuses connections and serves hardly a command, ${rate(still.watch.observation.commands_per_second)}: it is full, not idle.`));
  }
  const isSaid = found.some(({ word }) => word.endsWith("FULL"));
  const fuller = servers.find((server) => server.watch.saturation >= 0.9 && !(isSaid && server === worst));
  if (fuller) say("warn", "NEARLY FULL", of(fuller, `${percent(fuller.watch.saturation)} of the server's connections are in use${asOf(fuller)}.`));
  const short = servers.find((server) => lacksReplicas(server));
  if (short) say("warn", "REPLICA LOST", of(short, `${lacksReplicas(short)}.`));
  if (s.sentinel?.trouble) {
    const { master, since_seconds: since } = s.sentinel;
    const then = since === null ? "none has said it yet" : `the pool goes on with ${s.server}, and would not follow a failover`;
    say("warn", "NO SENTINEL", `No sentinel says where ${master} is: ${then}.`);
  }
  if (s.cluster?.trouble) say("warn", "NO MAP", `No node says who the nodes of the cluster are: ${s.cluster.trouble}.`);
  if (s.cluster?.age_seconds != null && s.cluster.unserved_slots > 0) {
    say("bad", "UNSERVED", `No node serves ${plural(s.cluster.unserved_slots, "slot")} of the cluster.`);
  }
  const alone = servers.find(({ fleet }) => fleet?.trouble);
  if (alone) say("warn", "FLEET LOST", of(alone, `the fleet's registry does not answer: ${alone.fleet.trouble}.`));
  const unwatched = servers.find((server) => server.watch.trouble);
  if (unwatched) say("warn", "UNWATCHED", of(unwatched, `the server cannot be watched: ${unwatched.watch.trouble}.`));
  if (found.every(({ level }) => level === "ok") && s.live > 0) {
    const waiting = s.waiting > 0 ? `, ${plural(s.waiting, "caller waits", "callers wait")} for one` : "";
    const many = nodes.length > 0 ? ` at ${plural(nodes.length, "node")}` : "";
    found.unshift({ level: "ok", word: "OK", says: `All is well: ${live(s)}${many}${waiting}.` });
  }
  const limited = servers.find((server) => ["price_law", "fleet_lease"].includes(server.limited_by)
    && server.limit < server.max_connections && server.watch.observation);
  if (limited) {
    say("ok", "LIMITED", of(limited, `the limit is ${count(limited.limit)}, set by ${LIMITED_BY[limited.limited_by].split(":")[0]}.`));
  }
  const levels = ["bad", "warn", "ok"];
  return found.sort((a, b) => levels.indexOf(a.level) - levels.indexOf(b.level));
}

function lacksReplicas({ watch: { observation } }) {
  const { replicas_online: online, replicas_expected: expected } = observation ?? {};
  return online < expected && `${count(online)} of ${plural(expected, "replica")} online`;
}

// One line of a cluster's node.
function ofNode({ role, slots, status: s }) {
  const { last_failure: failure, next_dial_in_seconds: wait } = s.breaker;
  const part = role === "replica" ? "replica" : role ? `primary of ${plural(slots, "slot")}` : "not named any more";
  const words = [part, `${count(s.live)} of ${plural(s.max_connections, "connection")} live`];
  if (s.limit < s.max_connections) words.push(`limit ${count(s.limit)}, set by ${LIMITED_BY[s.limited_by]?.split(":")[0] ?? s.limited_by}`);
  if (s.waiting > 0) words.push(plural(s.waiting, "caller waits", "callers wait"));
  if (failure) words.push(`[${failure.outcome}] ${failure.message}${wait >= 0.05 ? `, next dial in ${seconds(wait)}` : ""}`);
  if (s.watch.saturation !== null) words.push(`${percent(s.watch.saturation)} of the server's connections in use${asOf(s)}`);
  if (lacksReplicas(s)) words.push(lacksReplicas(s));
  if (s.watch.trouble) words.push(`not watched: ${s.watch.trouble}`);
  if (s.fleet?.trouble) words.push(`its fleet's registry does not answer: ${s.fleet.trouble}`);
  return words.join(" · ");
}

const EVENTS = {
  breaker_changed: (e) => `breaker ${e.from} → ${e.to}`,
  connected: (e) => `connected, ${count(e.live)} live`,
  dial_failed: ({ failure }) => `dial failed [${failure.outcome}]: ${failure.message}`,
  limit_changed: (e) => `limit ${count(e.from)} → ${count(e.to)}: ${LIMIT_SET[e.limited_by] ?? e.limited_by}`,
  connection_closed: (e) => `connection closed: ${e.reason}`,
  rejected: (e) => `${e.endpoint} refused: ${e.rejection}`,
  leak_suspected: (e) => `${e.endpoint} holds a lease for too long, acquired at ${e.location}`,
  leak_resolved: (e) => `${e.endpoint} gave back a lease after ${seconds(e.age_seconds)}, acquired at ${e.location}`,
  watch_lost: (e) => `the server is not watched any more: ${e.reason}`,
  watch_found: () => "the server is watched",
  fleet_lost: (e) => `the fleet's registry is lost: ${e.reason}`,
  fleet_joined: (e) => `member of the fleet, ${count(e.members)} in all`,
  credentials_failed: (e) => `new credentials have failed: ${e.reason}`,
  master_changed: (e) => `${e.master} moved, ${e.from} → ${e.to}`,
  sentinels_lost: (e) => `${e.master}: ${e.reason}`,
  sentinels_found: (e) => `a sentinel says again where ${e.master} is`,
  cluster_changed: (e) => `the cluster's slots are served by ${e.primaries.join(", ")}`,
  cluster_lost: (e) => `no node says who the nodes of the cluster are: ${e.reason}`,
  cluster_found: () => "a node says again who the nodes of the cluster are",
  restarted: () => "the server restarted",
  role_changed: (e) => `the server was ${e.from} and is ${e.to}`,
  replica_lost: (e) => `a replica is lost, ${count(e.online)} of ${count(e.expected)} online`,
  replica_back: (e) => `a replica is back, ${count(e.online)} of ${count(e.expected)} online`,
  ceiling_changed: (e) => `the server's ceiling ${count(e.from)} → ${count(e.to)}`,
};

function inWords(event) {
  try {
    return EVENTS[event.event](event);
  } catch {
    // One that this page does not know, from a newer service behind the same address.
    const { at, ...rest } = event;
    return JSON.stringify(rest);
  }
}

// ---- Writing into the page: by textContent and attributes' values only

function write(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

function make(tag, words = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = words;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const at = (object, path) => path.split(".").reduce((o, key) => o?.[key], object);

// Elements that are still wanted are kept, so that a selection or a screen reader's place survives.
function list(parent, items, keyOf, create, update = () => {}) {
  const old = new Map([...parent.children].map((child) => [child.key, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = old.get(key);
    if (!child) {
      child = create(item);
      child.key = key;
    }
    old.delete(key);
    update(child, item);
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  for (const child of old.values()) child.remove();
}

// A row from a template; `data-of` names the field of the item, `data-field` will be its whole path.
function row(template, path) {
  const element = $(template).content.firstElementChild.cloneNode(true);
  for (const cell of element.querySelectorAll("[data-of]")) cell.dataset.field = `${path}.${cell.dataset.of}`;
  return element;
}

function fillRow(element, item) {
  for (const cell of element.querySelectorAll("[data-of]")) write(cell, text(item[cell.dataset.of], cell.dataset.as));
}

function bar(element, parts) {
  const whole = Object.values(parts).reduce((a, b) => a + b, 0) || 1;
  for (const [name, part] of Object.entries(parts)) $(`i.${name}`, element).style.width = `${(100 * part) / whole}%`;
}

function counts(parent, object, path, tag) {
  list(parent, Object.entries(object), ([name]) => name, ([name]) => {
    const group = make(tag === "dt" ? "div" : "span");
    const number = make(tag === "dt" ? "dd" : "b", "", { "data-field": `${path}.${name}` });
    group.append(...(tag === "dt" ? [make("dt", name), number] : [number, " ", make("code", name)]));
    return group;
  }, (group, [, n]) => write($("[data-field]", group), count(n)));
}

function show(s) {
  const observed = s.watch.observation;
  const snapshot = observed?.snapshot ?? {};
  // As the server counts when it decides whether to refuse.
  const used = snapshot.connected_clients == null ? null
    : snapshot.connected_clients + (snapshot.connected_replicas ?? 0) + (snapshot.cluster_connections ?? 0);
  const ceiling = observed?.ceiling ?? null;
  const taken = s.live + s.dialing, top = Math.max(s.max_connections, taken), limit = Math.min(s.limit, top);
  const computed = {
    held: s.live - s.idle,
    room: Math.max(0, limit - taken),
    barred: top - Math.max(limit, taken),
    limited_by: LIMITED_BY[s.limited_by] ?? "",
    used,
    free: used === null || ceiling === null ? null : Math.max(0, ceiling - used),
  };
  for (const element of document.querySelectorAll("body > :not(template) [data-field]")) {
    // Rows fill themselves: a name in a path may hold any character.
    if (!element.dataset.of && !element.closest("td")) write(element, text(at(s, element.dataset.field), element.dataset.as));
  }
  for (const element of document.querySelectorAll("[data-computed]")) write(element, text(computed[element.dataset.computed]));

  bar($("#connections .bar"), { held: computed.held, idle: s.idle, dialing: s.dialing, room: computed.room, barred: computed.barred });
  bar($("#server .bar"), ceiling && used !== null ? { held: Math.min(used, ceiling), room: computed.free } : { held: 0, room: 1 });
  $("#server").classList.toggle("old", isOld(s));
  write($("#server-old"), isOld(s) ? `, as it was ${FORMATS.age(s.watch.age_seconds)} ago` : "");
  $("#fleet").classList.toggle("old", Boolean(s.fleet && !s.fleet.joined));
  write($("#fleet-old"), s.fleet && !s.fleet.joined && s.fleet.members > 0 ? ": as it was" : "");
  $("#forced").hidden = !s.breaker.forced;
  $("#last-failure").hidden = !s.breaker.last_failure;
  $("#watch-trouble").hidden = !s.watch.trouble;
  $("#fleet").hidden = !s.fleet;
  $("#fleet-trouble").hidden = !s.fleet?.trouble;
  for (const element of document.querySelectorAll("[data-cluster]")) element.hidden = !s.cluster?.nodes.length;
  $("#cluster").hidden = !s.cluster;
  $("#cluster-trouble").hidden = !s.cluster?.trouble;
  list($("#nodes"), s.cluster?.nodes ?? [], (each) => each.status.server, (each) => {
    const group = make("div", "", { class: "wide" });
    group.append(make("dt", each.status.server), make("dd", "", { class: "words" }));
    return group;
  }, (group, node) => write($("dd", group), ofNode(node)));
  $("#sentinel").hidden = !s.sentinel;
  $("#sentinel-trouble").hidden = !s.sentinel?.trouble;
  list($("#sentinels"), s.sentinel?.sentinels ?? [], (each) => each.server, (each) => {
    const group = make("div", "", { class: "wide" });
    group.append(make("dt", each.server), make("dd", "", { class: "words" }));
    return group;
  }, (group, { connected, last_failure: failure }) => {
    write($("dd", group), connected ? "connected" : failure ? `[${failure.outcome}] ${failure.message}` : "in reserve");
  });
  $("#lanes").hidden = s.lanes.length === 0;
  write($("#product"), [snapshot.product, snapshot.version, snapshot.role].filter(Boolean).join(" · "));

  list($("#endpoints tbody"), s.endpoints, (e) => e.name, (e) => row("#endpoint-row", `endpoints.${e.name}`), (tr, e) => {
    fillRow(tr, e);
    bar($(".bar", tr), { held: e.in_use, kept: Math.max(0, e.reserve - e.in_use), room: Math.max(0, e.max - Math.max(e.in_use, e.reserve)) });
    counts($(".requests", tr), e.requests, `endpoints.${e.name}.requests`);
    counts($(".rejected", tr), e.rejected, `endpoints.${e.name}.rejected`);
  });
  const leaks = s.leaks.map((leak, index) => ({ ...leak, index }));
  list($("#leaks tbody"), leaks, (l) => l.index, (l) => row("#leak-row", `leaks.${l.index}`), fillRow);
  write($("#leaks .count"), leaks.length ? count(leaks.length) : "");
  counts($("#dials dl"), s.dials, "dials", "dt");
  counts($("#closed dl"), s.connections_closed, "connections_closed", "dt");
  counts($("#server-errors dl"), s.server_errors, "server_errors", "dt");
  $("#server-errors").hidden = sum(s.server_errors) === 0;
  list($("#lanes dl"), s.lanes.map((lane, index) => ({ ...lane, index })), (l) => l.index, (l) => {
    const group = make("div");
    group.append(make("dt", `lane ${l.index + 1}`), make("dd"));
    return group;
  }, (group, l) => write($("dd", group), `${l.up ? "up" : "down"}, ${plural(l.connections, "connection")} so far`));

  const seen = new Map();
  const events = s.events.map((event) => {
    // Two of the same kind can happen at the same time.
    const words = inWords(event), twin = `${event.at} ${words}`, n = seen.get(twin) ?? 0;
    seen.set(twin, n + 1);
    return { at: event.at * 1000, words, key: `${n} ${twin}` };
  });
  list($("#events ol"), events.reverse(), (e) => e.key, (e) => {
    const item = make("li");
    item.at = e.at;
    item.append(make("time", clock.format(e.at), { datetime: new Date(e.at).toISOString() }), make("span", "", { class: "ago" }), make("span", e.words, { class: "what" }));
    return item;
  });
  write($("#events .count"), events.length ? count(events.length) : "");
}

// ---- Rates: what is refused just now from counters, by this page; the last minutes as the service has kept them

let samples = [];

function sample(s, now) {
  const byReason = new Map();
  for (const e of s.endpoints) {
    for (const [reason, n] of Object.entries(e.rejected)) byReason.set(JSON.stringify([e.name, reason]), n);
  }
  samples.push({ now, byReason });
  samples = samples.filter((old) => now - old.now <= LATELY);
}

// Callers refused in the last five seconds, and who and why most of them; null where there were none.
function refusals() {
  const last = samples.at(-1), first = samples[0];
  let all = 0, most = 0, worst;
  for (const [key, n] of last.byReason) {
    const more = n - (first.byReason.get(key) ?? 0);
    all += Math.max(0, more);
    if (more > most) [most, worst] = [more, key];
  }
  if (!worst || last === first) return null;
  const [endpoint, reason] = JSON.parse(worst);
  return { perSecond: (1000 * all) / (last.now - first.now), endpoint, reason };
}

function draw(name, { age_seconds: ages = [], seconds: took = [], [name]: counts = [] } = {}) {
  // A gap: the process stood still.
  const points = ages.map((age, i) => (took[i] > GAP ? null : { x: 300 - age, y: counts[i] / took[i] }));
  const known = points.filter(Boolean), peak = Math.max(0, ...known.map((p) => p.y));
  const height = (y) => (peak > 0 ? 39 - (36 * y) / peak : 39).toFixed(2);
  let line = "", area = "", start = null, previous = null;
  const end = () => { if (previous) area += `L${previous.x.toFixed(1)} 40L${start.x.toFixed(1)} 40Z`; };
  for (const point of points) {
    if (point) {
      const place = `${point.x.toFixed(1)} ${height(point.y)}`;
      line += (previous ? "L" : "M") + place;
      if (!previous) start = point;
      area += previous ? `L${place}` : `M${point.x.toFixed(1)} 40L${place}`;
    } else {
      end();
    }
    previous = point;
  }
  end();
  const chart = $(`#${name}-chart`);
  $(".line", chart).setAttribute("d", line);
  $(".area", chart).setAttribute("d", area);
  const current = points.at(-1);
  write($(`#${name}-now`), current ? rate(current.y) : "–");
  write($(`#${name}-peak`), known.length ? rate(peak) : "–");
  write($(`#${name}-words`), `Per second over the last five minutes: ${current ? rate(current.y) : "unknown"} now, ${rate(peak)} at most.`);
}

// ---- The state of the page itself

let last = null, failures = 0, trouble = "", nextTry = 0, skew = 0, announced = "";
const MARKS = { ok: "●", warn: "▲", bad: "■", stale: "○" };

function headline() {
  const now = Date.now();
  const age = last && (now - last.now) / 1000;
  const stale = failures > 0 || (age ?? 0) > PATIENCE / 1000;
  let [first, ...others] = last ? findings(last.status) : [{ level: "stale", word: "ASKING", says: "Asking the service." }];
  if (stale) {
    const then = last ? `What follows was true at ${clock.format(last.now)}.` : "";
    others = [{ says: `${capitalised(trouble || "it takes too long")}; ${nextTry > now ? `next try in ${seconds((nextTry - now) / 1000)}` : "trying"}` }];
    first = { level: "stale", word: "NO ANSWER", says: last ? `This service has not answered for ${FORMATS.age(Math.max(1, age))}. ${then}` : "This service does not answer." };
  }
  root.dataset.level = first.level;
  root.classList.toggle("stale", stale);
  write($("#mark"), MARKS[first.level]);
  write($("#word"), first.word);
  write($("#headline"), first.says);
  list($("#also"), others.map(({ says }, index) => ({ says, index })), (o) => o.index, () => make("li"), (li, o) => write(li, o.says));
  $("#also").hidden = others.length === 0;
  const pool = last?.status.pool ?? "redis-guard";
  document.title = `${MARKS[first.level]} ${first.word} · ${pool}`;
  write($("#age"), !last ? "asking …" : stale ? `last answer at ${clock.format(last.now)}` : `live, updated ${clock.format(last.now)}`);
  for (const button of document.querySelectorAll("#overrides button")) button.disabled = stale;
  // The countdown changes every second; who listens wants to hear of another state only.
  if (announced !== first.word) write($("#announcement"), `${first.word}. ${first.says}`);
  announced = first.word;
  for (const item of $("#events ol").children) write($(".ago", item), FORMATS.age(Math.max(0, (now + skew - item.at) / 1000)));
}

function render(status, date) {
  const now = Date.now();
  // The service's clock and this one's may differ; the header is in whole seconds.
  const difference = Date.parse(date ?? "") - now;
  skew = Math.abs(difference) > 2000 ? difference : 0;
  sample(status, now);
  last = { now, status: { ...status, refusals: refusals() } };
  failures = 0;
  trouble = "";
  show(status);
  draw("refused", status.history);
  draw("dials", status.history);
  headline();
  root.dataset.updates = Number(root.dataset.updates ?? 0) + 1;
}

// ---- Asking

// Not location.href: a request must not carry the credentials that a URL may.
const here = new URL(location.pathname + location.search, location.origin);
let timer = 0, request = null;

async function ask() {
  const mine = (request = new AbortController());
  const patience = setTimeout(() => mine.abort(), PATIENCE);
  try {
    const response = await fetch(here, { headers: { accept: "application/json" }, cache: "no-store", redirect: "manual", signal: mine.signal });
    if (response.type === "opaqueredirect") throw new Error("it sends us elsewhere, to log in perhaps: reload this page");
    if (!response.ok) throw new Error(`it says HTTP ${response.status}`);
    if (!/json/.test(response.headers.get("content-type"))) throw new Error("the answer is not a status");
    const status = await response.json();
    if (request === mine) render(status, response.headers.get("date"));
  } catch (error) {
    // Whoever replaced this request knows better.
    if (request !== mine) return;
    failures += 1;
    trouble = mine.signal.aborted ? `no answer within ${PATIENCE / 1000} s` : error instanceof TypeError ? "it cannot be reached" : error.message;
  } finally {
    clearTimeout(patience);
  }
  if (request !== mine) return;
  const wait = failures === 0 ? EVERY : Math.min(LONGEST_WAIT, EVERY * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
  nextTry = Date.now() + wait;
  timer = setTimeout(ask, wait);
  headline();
}

let ticking = 0;

function look() {
  clearTimeout(timer);
  clearInterval(ticking);
  const before = request;
  request = null;
  before?.abort();
  if (document.hidden) return;
  ticking = setInterval(headline, EVERY);
  ask();
}
document.addEventListener("visibilitychange", look);
addEventListener("online", look);
look();

// ---- The breaker

const OVERRIDES = {
  open: ["Force the breaker open?", "No connection will be dialed until somebody takes it back. Live connections go on; with none, every caller is refused.", "Force open"],
  closed: ["Force the breaker closed?", "Callers will wait for a connection rather than being refused at once, until somebody takes it back.", "Force closed"],
  auto: ["Give the breaker back to itself?", "It opens and closes by what the server says.", "Back to automatic"],
};
if ("overrides" in root.dataset) {
  $("#overrides").hidden = false;
  const dialog = $("#confirm"), yes = $("[value=yes]", dialog);
  let wanted;
  $("#overrides").addEventListener("click", ({ target }) => {
    if (!target.dataset.override) return;
    wanted = target.dataset.override;
    const [question, consequence, action] = OVERRIDES[wanted];
    write($("#confirm-question"), question);
    write($("#confirm-consequence"), consequence);
    write(yes, action);
    dialog.showModal();
  });
  $("[value=no]", dialog).addEventListener("click", () => dialog.close());
  yes.addEventListener("click", async () => {
    dialog.close();
    const url = new URL(here);
    // Beside this page, with or without a slash at its end.
    url.pathname = url.pathname.replace(/[^/]*\/*$/, `breaker/${wanted}`);
    const answer = $("#override-answer");
    write(answer, "Asking …");
    try {
      const response = await fetch(url, { method: "POST", redirect: "manual", signal: AbortSignal.timeout(PATIENCE) });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const breaker = await response.json();
      write(answer, `The breaker is ${breaker.state}, ${breaker.forced ? "held there" : "by itself"}.`);
    } catch (error) {
      write(answer, `That did not work: ${error.message}`);
    }
    look();
  });
}
