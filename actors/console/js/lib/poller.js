// Work that is repeated while somebody looks.

/** Calls `work` now and then, never twice at once; rests while the page is hidden. Gives what ends and hastens it. */
export function poll(work, intervalMs) {
  let timer = null;
  let ended = false;
  let running = false;
  let again = false;
  const turn = async () => {
    clearTimeout(timer);
    if (ended) return;
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      if (!document.hidden) await work();
    } finally {
      running = false;
      if (!ended) timer = setTimeout(turn, again ? 0 : intervalMs);
      again = false;
    }
  };
  const wake = () => {
    if (!document.hidden) turn();
  };
  document.addEventListener("visibilitychange", wake);
  turn();
  return {
    now: turn,
    stop() {
      ended = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", wake);
    },
  };
}
