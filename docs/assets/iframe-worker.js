// A page that was opened from disk may start no worker. The search's script runs in a hidden frame
// instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super();
      this.frame = new Promise((started) => {
        const frame = document.createElement("iframe");
        frame.hidden = true;
        frame.onload = () => {
          const inside = frame.contentWindow;
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const element = inside.document.createElement("script");
          element.onload = () => started(inside);
          element.src = new URL(script, location.href).href;
          inside.document.body.append(element);
        };
        document.body.append(frame);
      });
    }

    postMessage(data) {
      this.frame.then((inside) => {
        inside.dispatchEvent(new inside.MessageEvent("message", { data }));
      });
    }
  };
}
