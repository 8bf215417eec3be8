// The WebSocket to the pipeline: reconnects by itself, and confirms each picture it has shown.

export class Link {
  // handlers: { picture(header, bitmap), message(data), open(isOpen, reason) }
  constructor(handlers) {
    this.handlers = handlers;
    this.watched = {};
    this.failures = 0;
    document.addEventListener("visibilitychange", () => this.tellWatched());
    this.connect();
  }

  connect() {
    // Relative to the page, which may lie below a path of a proxy.
    const address = new URL("ws", document.baseURI);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.hash = "";
    const socket = new WebSocket(address);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.failures = 0;
      this.told = "";
      this.handlers.open(true);
      this.tellWatched();
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.handlers.message(JSON.parse(data));
      else this.picture(socket, data);
    };
    socket.onclose = ({ code }) => {
      this.handlers.open(false, code === 1013 ? "Too many people are watching; trying again." : "");
      this.failures += 1;
      const pause = Math.min(10, 0.5 * 2 ** Math.min(this.failures, 5)) * (0.8 + 0.4 * Math.random());
      setTimeout(() => this.connect(), pause * 1000);
      if (this.failures === 2) this.checkSignedIn();
    };
  }

  async checkSignedIn() {
    try {
      if ((await fetch("api/zones")).status === 401) location.assign("login");
    } catch { /* The server is away; connect() goes on trying. */ }
  }

  async picture(socket, data) {
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    try {
      const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
      this.handlers.picture(header, bitmap);
    } finally {
      // The server sends the next picture after this: a slow phone gets fewer, never old ones.
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "shown", camera: header.camera }));
    }
  }

  // cameras: { name: width in device pixels }
  watch(cameras) {
    this.watched = cameras;
    this.tellWatched();
  }

  tellWatched() {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    const text = JSON.stringify({ type: "watch", cameras: document.hidden ? {} : this.watched });
    if (text === this.told) return;
    this.told = text;
    this.socket.send(text);
  }
}
