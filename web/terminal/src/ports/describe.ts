/** A port in words. Pure. */

export interface Port {
  port: number;
  addresses: string[];
  /** Other machines of its network reach it too. */
  open: boolean;
  link: boolean;
}

const KNOWN: Readonly<Record<number, string>> = { 22: "SSH", 2375: "Docker", 2376: "Docker", 3306: "MySQL", 5432: "PostgreSQL", 5541: "dozlab", 6379: "Redis", 6443: "Kubernetes" };

export function describe({ port, addresses, open }: Port): string {
  const where = open ? (addresses.some((address) => address === "0.0.0.0" || address === "::") ? "every address" : addresses.join(", ")) : "the machine itself";
  const known = KNOWN[port];
  return known ? `${known} · ${where}` : where;
}
