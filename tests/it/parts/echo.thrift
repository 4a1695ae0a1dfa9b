exception Failed { 1: string why }

service Echo {
  string reverse(1: string text)
  void fail(1: string why) throws (1: Failed failed)
}
