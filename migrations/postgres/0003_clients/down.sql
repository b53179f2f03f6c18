DROP TABLE secrets;
DROP TABLE clients;
